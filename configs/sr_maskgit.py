"""SR-MaskGIT, ×2: ``configs/sr_maskgit.py:SIZE,method=METHOD,control=0,stage=,hardware=``.

SIZE is base (MaskGIT's published networks and schedules, the paper's for the correction), small
(windows of 128 LR pixels; days on one GPU) or nano (two CPU cores, about an hour for all stages).
METHOD is correction (tokenizer, prior, correction) or inpainting (tokenizer, prior); control=1
adds a stage at the end, a controlling module, beyond the paper. One workdir of the correction holds
both:

    python -m launch.train --config configs/sr_maskgit.py:nano --workdir W --config.data.root PHOTOS
    python -m launch.export_bundle --workdir W --method sr_maskgit_inpainting --output FILE

The first command leaves the correction's bundle; the second joins tokenizer and prior of the same
run to the inpainting's. HARDWARE moves the schedule to a machine (configs/hardware.py).
"""

from __future__ import annotations

import ml_collections

from configs import common, hardware

SIZES = ("base", "small", "nano")
METHODS = ("correction", "inpainting")
SHARES = dict(tokenizer=40.0, prior=25.0, correction=20.0, control=15.0)
"""Shares of the time box, by stage."""


def _model(size: str) -> dict[str, object]:
    if size == "base":  # the method's defaults are the published networks
        return dict(transformer=dict(dropout=0.1))
    if size == "small":
        return dict(
            tokenizer=dict(width=64, code_width=128),
            transformer=dict(
                classes=0, positions=257, dim=384, depth=12, heads=6, inner=1536, dropout=0.1
            ),
            overlap=32,
        )
    return dict(
        tokenizer=dict(
            # f 4: of the tokens of 8 pixels 97 % are the same for HR and its ×2 reduction.
            width=64, multipliers=(1, 1), patch=2, blocks=2, code_width=32, codes=512,
            groups=0,  # norms of few channels wipe out colours (docs/training_log.md)
        ),
        transformer=dict(
            codes=512, classes=0, positions=257, dim=128, depth=4, heads=4, inner=512
        ),
        overlap=8,
    )  # fmt: skip


def _losses(size: str) -> dict[str, object]:
    if size in ("base", "small"):
        return {}
    return dict(
        pixel="l1", perceptual="lpips_squeeze", perceptual_weight=0.6, adversarial_weight=0.0,
        joined=0.25, discriminator=dict(filters=32, layers=3, norms=False),
        # A sharp entropy and codes near 0 take a short training its colours (docs/training_log.md).
        commitment=1.0, entropy=0.02, entropy_temperature=0.1, code_start="noise",
        transformer_start="alike",
    )  # fmt: skip


def _stages(size: str) -> dict[str, ml_collections.ConfigDict]:
    stage, adam = common.stage, common.optimizer
    if size == "base":
        decayed = dict(b1=0.9, b2=0.96, weight_decay=0.045, warmup=5000)
        found = dict(
            tokenizer=stage(1_000_000, 256, adam(1e-4, 1e-4, b1=0.0, b2=0.99)),
            prior=stage(2_000_000, 256, adam(1e-4, 1e-4, **decayed), crop=512),
            correction=stage(3200, 8, adam(1e-6, 1e-6, b1=0.9, b2=0.96), crop=512, ema=0.0),
            control=stage(20_000, 8, adam(4e-5, 4e-5), crop=512),
        )
    elif size == "small":
        token = dict(b1=0.9, b2=0.96, weight_decay=0.045, warmup=2000, clip=1.0)
        found = dict(
            tokenizer=stage(200_000, 32, adam(1e-4, 1e-5, b1=0.0, b2=0.99)),
            prior=stage(200_000, 64, adam(3e-4, 1e-5, **token)),
            correction=stage(50_000, 64, adam(1e-4, 1e-6, **token)),
            control=stage(20_000, 16, adam(4e-5, 4e-6)),
        )
    else:
        token = dict(warmup=100, clip=1.0, weight_decay=0.01)
        found = dict(
            tokenizer=stage(2600, 16, adam(1e-3, 5e-5, warmup=100, clip=1.0), crop=64, ema=0.99),
            prior=stage(2500, 8, adam(1e-3, 1e-5, **token), crop=64, ema=0.99),
            correction=stage(5000, 8, adam(1e-3, 1e-5, **token), crop=64, ema=0.99),
            control=stage(1000, 8, adam(3e-4, 1e-5, warmup=100, clip=1.0), crop=64, ema=0.99),
        )
    for name, stage_config in found.items():
        stage_config.share = SHARES[name]
    return found


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a size and method, with all stages or one.

    Raises:
        ValueError: unknown size, method, stage, hardware or option.
    """
    defaults = {
        "size": "base", "method": "correction", "control": "0", "stage": "", "hardware": ""
    }  # fmt: skip
    options = common.parse(argument, defaults)
    size, method = options["size"], options["method"]
    common.check_choice("size", size, SIZES)
    common.check_choice("method", method, METHODS)
    if (control := options["control"]) not in ("0", "1"):
        raise ValueError(f"control: expected 0 or 1, found {control!r}")
    config = common.base()
    config.method = f"sr_maskgit_{method}"
    config.name = f"{config.method}-{size}"
    config.model = ml_collections.ConfigDict(_model(size) | {"control": control == "1"})
    config.losses = ml_collections.ConfigDict(_losses(size))
    stages = _stages(size)
    if method == "inpainting":
        del stages["correction"]
    if control == "0":
        del stages["control"]
    common.choose(config, stages, options["stage"])
    config.data.update(preset="bicubic", margin=0)  # as in the paper
    if size == "nano":
        config.update(log_every=25, panel_every=500, validate_every=500, checkpoint_every=250)
        # Tokens that bicubic alone has changed cannot be told (docs/training_log.md).
        config.data.update(preset="realesrgan", cache=True, workers=0, validation_limit=8)
    hardware.apply(config, options["hardware"])
    return config
