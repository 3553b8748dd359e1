"""RealSRT: ``configs/realsrt.py:SIZE,stage=STAGE,hardware=HARDWARE``.

SIZE is base (published: 4 stages, 8×V100, RealSR LPIPS 0.2527) or nano. The stages run in
order in one workdir, tokenizer, generator, critic, control; ``stage=STAGE`` runs one of them:

    python -m launch.train --config configs/realsrt.py:nano --workdir W --config.data.root PHOTOS

nano is meant for two CPU cores and some two and a half hours for all four stages. Its settings are
those of the shipped weights, whose first steps differed (docs/training_log.md).

HARDWARE moves the schedule to a machine (configs/hardware.py says how): mesh, bfloat16, workers.
Without it nothing changes. v5p-128 is 64 chips, which are 64 JAX devices.

    python -m launch.train --config configs/realsrt.py:base,hardware=h100x8 \
        --workdir W --config.data.root PHOTOS                       # h100x8, h100x1, v5e-8
    launch/tpu_pod.sh all --project P --zone Z --name N --accelerator v5p-128 \
        --workdir gs://BUCKET/W --data gs://BUCKET/PHOTOS

Expected hours of base are an estimate, not measured (docs/scaling.md): a step takes as long as its
products at 40 % of the bfloat16 peak or its memory traffic, whichever is longer, if the input keeps
up. In the token stages and in control it is the traffic, most of it that of attention:

    hardware  devices  mesh (data×fsdp)  tokenizer  generator  critic  control  hours in all
    v5e-8           8  8×1                     1.4       33.9    39.0      1.0          75.3
    v5p-128        64  64×1                    0.1        1.5     1.6      0.0           3.2
    h100x8          8  8×1                     0.3        8.3     9.5      0.3          18.3
    h100x1          1  1×1                     2.2       64.9    75.2      2.0         144.3

Batches are the published 64, 64, 64 and 8 with one exception: control on v5p-128 has a batch of 64,
10,000 steps instead of 80,000 and a learning rate of 3.2e-4 instead of 4e-5. On h100x1 and v5e-8
gradients are accumulated over microbatches (``stages.STAGE.accumulate``), and batch statistics are
those of a microbatch.
Expected scores of base on each machine, the paper's: LPIPS 0.2527 on RealSR, 0.2640 on DRealSR.
"""

from __future__ import annotations

import ml_collections

from configs import common, hardware

SIZES = ("base", "nano")
STAGES = ("tokenizer", "generator", "critic", "control")
METHODS = {"base": "realsrt", "nano": "realsrt_tuned"}
SHARES = dict(tokenizer=40.0, generator=25.0, critic=10.0, control=25.0)
"""Shares of the time box, by stage."""
GFLOP = dict(tokenizer=1133, generator=990, critic=1075, control=2621)
"""GFLOP of an example in a training step of ``base``, by stage (docs/scaling.md)."""
FITS = {"v5e-8": 2, "h100x1": 16}
"""Examples of ``base`` in a device's microbatch, estimated from its memory, in examples of the
generator stage; other machines hold their share of the batch. A v5e chip's 16 GB hold three."""


def _model(size: str) -> dict[str, object]:
    if size == "base":
        return {}  # the method's defaults are the published networks
    # Sharpness 2: attention starts local, which ends a fresh generator's plateau sooner.
    width = dict(
        dim=128, heads=2, head_dim=64, code_width=64, sharpness=2.0, grid=(32, 32), encoder_depth=1
    )
    return dict(
        tokenizer=dict(
            channels=(64, 128), patch=4, code_width=64, encoder_blocks=1, decoder_blocks=2,
            encoder_bottom=0, decoder_bottom=0, narrow_up=True,
            groups=0,  # a group of two channels wipes out absolute colour (docs/training_log.md)
        ),
        generator=dict(decoder_depth=2, **width),
        critic=dict(outputs=1, masked=False, decoder_depth=1, **width),
    )  # fmt: skip


def _losses(size: str) -> dict[str, object]:
    if size == "base":
        return {}
    return dict(
        pixel="l1", perceptual="lpips_squeeze", perceptual_weight=0.6, control_steps=2, bypass=0.5,
        adversarial_weight=0.0, discriminator=dict(filters=32, layers=3),
    )  # fmt: skip


def _stages(size: str) -> dict[str, ml_collections.ConfigDict]:
    adamw = dict(weight_decay=0.01, b2=0.999)
    stage, adam = common.stage, common.optimizer
    if size == "base":  # §4.1: batch 64 and 8, Adam 4e-5, AdamW 1e-4 → 1e-7 over 800 k steps
        found = dict(
            tokenizer=stage(43_000, 64, adam(4e-5, 4e-5), ema=0.0),
            generator=stage(800_000, 64, adam(1e-4, 1e-7, **adamw)),
            critic=stage(800_000, 64, adam(1e-4, 1e-7, **adamw)),
            control=stage(80_000, 8, adam(4e-5, 4e-5)),
        )
    else:
        image = dict(warmup=50, clip=1.0)
        token = dict(warmup=50, clip=1.0, **adamw)
        found = dict(
            tokenizer=stage(5000, 8, adam(1e-3, 5e-5, **image), crop=128, ema=0.99),
            generator=stage(1500, 4, adam(1e-3, 1e-5, **token), ema=0.99),
            critic=stage(360, 4, adam(1e-3, 1e-5, **token), ema=0.98),
            control=stage(1450, 4, adam(4e-4, 1e-5, **image), ema=0.99),
        )
    for name, share in SHARES.items():
        found[name].share = share
    return found


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a size, with all stages or one.

    Raises:
        ValueError: unknown size, stage, hardware or option.
    """
    options = common.parse(argument, {"size": "base", "stage": "", "hardware": ""})
    size, machine = options["size"], options["hardware"]
    common.check_choice("size", size, SIZES)
    config = common.base()
    config.name = f"realsrt-{size}"
    config.method = METHODS[size]
    config.model = ml_collections.ConfigDict(_model(size))
    config.losses = ml_collections.ConfigDict(_losses(size))
    common.choose(config, _stages(size), options["stage"])
    if size == "nano":
        # camera: its blur is that of RealSR and DRealSR.
        config.update(log_every=25, panel_every=500, validate_every=500, checkpoint_every=250)
        config.data.update(cache=True, workers=0, margin=32, validation_limit=8, preset="camera")
    hardware.apply(config, machine)
    if size == "base" and machine in FITS:  # nano is small enough for any device
        for name, stage in config.stages.items():
            weight = max(1.0, GFLOP[name] / GFLOP["tokenizer"])  # work is a measure of memory
            devices = hardware.find(machine).devices
            stage.accumulate = hardware.microbatches(stage.batch, devices, FITS[machine] / weight)
    return config
