"""SRMAP: ``configs/srmap.py:SIZE,scale=SCALE,stage=STAGE,hardware=HARDWARE``.

SIZE is base (the published networks and schedule), small or nano (nano trains on one CPU core in
about 40 minutes); SCALE is 4 or 2. The stages are l1, and map, which goes on from its generator.

    python -m launch.train --config configs/srmap.py:nano --workdir W --config.data.root PHOTOS

HARDWARE moves the schedule to a machine (configs/hardware.py).
"""

from __future__ import annotations

import ml_collections

from configs import common, hardware

SIZES = ("base", "small", "nano")
STAGES = ("l1", "map")


def _model(size: str, scale: int) -> dict[str, object]:
    widths = dict(base=(256, 512, 256, 128), small=(96, 192, 96, 48), nano=(48, 96, 48, 24))[size]
    blocks = dict(base=16, small=8, nano=4)[size]
    sides = dict(base=(48, 128), small=(48, 96), nano=(32, 64))[size]
    # The published ×2 network has the first two widths.
    features = widths[1:] if scale == 4 else widths[1:3]
    generator: dict[str, object] = dict(stem=widths[0], features=features, blocks=(blocks,) * 4)
    if size == "nano":
        # Features of about 1, in which noise of 0.05 is seen from the first step on.
        generator["levels"] = 4.0
    return dict(generator=generator, tile=dict(sides=sides, overlap=16, variance=0.0))


def _critic(size: str) -> dict[str, object]:
    if size == "base":
        return dict(widths=(256, 256, 512, 512, 512, 1024, 1024), blocks=(1, 1, 2, 2, 2, 1))
    if size == "small":
        return dict(widths=(64, 64, 128, 128, 192, 256, 256), blocks=(1,) * 6, latent=128)
    return dict(widths=(16, 32, 64, 64, 96, 128), blocks=(1,) * 5, latent=64, levels=4.0)


def _stages(size: str) -> dict[str, ml_collections.ConfigDict]:
    stage, adam = common.stage, common.optimizer
    # What the critic's stages reduce to its kernel of 3.
    crop = 96 if size == "nano" else 192
    if size == "base":
        # The run: Adam (0.9, 0.99), 10 hours of L1, then 135,000 steps of 16 + 16 examples, the
        # generator's rate halved after 100,000. A cosine to half of it here.
        rate = 2e-5
        return dict(
            l1=stage(75_000, 16, adam(1e-4, 1e-5, b2=0.99), crop=crop, ema=0.999),
            map=stage(
                135_000,
                32,
                adam(rate, rate / 2, b2=0.99),
                crop=crop,
                ema=0.999,
                optimizers=dict(
                    critic=dict(final_learning_rate=rate),
                    noise=dict(learning_rate=10 * rate, final_learning_rate=5 * rate),
                ),
            ),
        )
    if size == "small":
        steps, batch, rate = (30_000, 60_000), 16, 1e-4
    else:
        steps, batch, rate = (1500, 1400), 8, 2e-4
    return dict(
        l1=stage(steps[0], batch, adam(5 * rate, rate, warmup=100), crop=crop, ema=0.99, share=1.0),
        map=stage(
            steps[1],
            2 * batch,
            adam(rate, rate / 4, b2=0.99, warmup=50),
            crop=crop,
            ema=0.995,
            share=3.0,
            optimizers=dict(
                critic=dict(learning_rate=2 * rate, final_learning_rate=2 * rate),
                noise=dict(learning_rate=10 * rate, final_learning_rate=2.5 * rate),
            ),
        ),
    )


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a size and scale.

    Raises:
        ValueError: unknown size, scale, stage, hardware or option.
    """
    defaults = {"size": "base", "scale": "4", "stage": "", "hardware": ""}
    options = common.parse(argument, defaults)
    size = options["size"]
    common.check_choice("size", size, SIZES)
    common.check_choice("scale", options["scale"], ("2", "4"))
    scale = int(options["scale"])
    config = common.base()
    config.method = "srmap"
    config.name = f"srmap-{size}" + ("-x2" if scale == 2 else "")
    config.model = ml_collections.ConfigDict(_model(size, scale))
    config.losses = ml_collections.ConfigDict(dict(critic=_critic(size)))
    common.choose(config, _stages(size), options["stage"])
    # Clean reductions of the crop itself: only they agree with the fidelity to the last pixel.
    config.data.update(preset="bicubic", margin=0)
    if size == "nano":
        config.update(log_every=25, panel_every=250, validate_every=250, checkpoint_every=250)
        config.data.update(cache=True, workers=0, validation_limit=4)
    hardware.apply(config, options["hardware"])
    return config
