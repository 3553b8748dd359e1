"""ITER, ×4 or ×2: ``configs/iter.py:SIZE,scale=4,stage=,hardware=``.

SIZE is base (the released networks and their schedules), small (a fifth of the parameters; days on
one GPU) or nano (two CPU cores). Both stages, tokenizer and tokens, run in one workdir:

    python -m launch.train --config configs/iter.py:small --workdir W --config.data.root PHOTOS

nano has RealSRT's convolutional tokenizer, so that a trained one serves; the stage ``tokens`` alone
takes about 40 minutes:

    python -m launch.train --config configs/iter.py:nano,stage=tokens --config.init realsrt-nano \
        --workdir W --config.data.root PHOTOS

HARDWARE moves the schedule to a machine (configs/hardware.py).
"""

from __future__ import annotations

import ml_collections

from configs import common, hardware

SIZES = ("base", "small", "nano")
SHARES = dict(tokenizer=50.0, tokens=50.0)
"""Shares of the time box, by stage."""


def _model(size: str) -> dict[str, object]:
    if size == "base":
        return {}  # the method's defaults are the released networks
    if size == "small":
        swin = dict(dim=128, heads=4)
        wide = dict(swin=dict(groups=2, **swin))
        return dict(
            tokenizer=dict(channels=(64, 128, 128, 256), swin=swin),
            encoder=dict(stem=32, groups=16, swin=dict(groups=2, **swin)),
            refinement=wide, evaluation=wide,
        )  # fmt: skip
    token: dict[str, object] = dict(groups=0, swin=dict(dim=96, groups=1, blocks=4, heads=4))
    return dict(
        # As in realsrt-nano, whose weights it takes.
        tokenizer=dict(
            channels=(64, 128), patch=4, code_width=64, encoder_blocks=1, decoder_blocks=2,
            encoder_bottom=0, decoder_bottom=0, narrow_up=True, groups=0,
        ),
        # No norms: groups of two channels wipe out absolute colour (docs/training_log.md).
        encoder=dict(
            stem=32, width=64, groups=0,
            swin=dict(dim=64, groups=1, blocks=4, heads=4, window=4),
        ),
        refinement=token, evaluation=token,
        alpha=0.3,  # a short training draws texture without its place (docs/training_log.md)
        # The smaller side is that of the training crops, by whose means the gates were trained.
        tile=dict(sides=(32, 64), overlap=8, variance=0.0),
    )  # fmt: skip


def _losses(size: str) -> dict[str, object]:
    if size == "base":
        return {}
    if size == "small":
        return dict(discriminator=dict(filters=32))
    return dict(
        pixel="l1", perceptual="lpips_squeeze", perceptual_weight=0.6, adversarial_weight=0.0,
        discriminator=dict(filters=32, layers=3),
    )  # fmt: skip


def _stages(size: str) -> dict[str, ml_collections.ConfigDict]:
    stage, adam = common.stage, common.optimizer
    if size == "base":
        given = adam(1e-4, 1e-4, b2=0.99)
        faster = dict(discriminator=dict(learning_rate=4e-4, final_learning_rate=4e-4))
        more = dict(crop=320, ema=0.0)
        return dict(
            tokenizer=stage(400_000, 32, given, optimizers=faster, share=50.0, **more),
            tokens=stage(400_000, 16, given, share=50.0, **more),
        )
    if size == "small":
        decayed = adam(2e-4, 1e-5, b2=0.99, warmup=1000, clip=1.0)
        return dict(
            tokenizer=stage(200_000, 16, decayed, share=50.0),
            tokens=stage(200_000, 32, decayed, share=50.0),
        )
    image = adam(1e-3, 5e-5, warmup=50, clip=1.0)
    token = adam(1e-3, 1e-5, warmup=100, clip=1.0)
    return dict(
        tokenizer=stage(5000, 8, image, crop=128, ema=0.99, share=50.0),
        tokens=stage(2000, 8, token, crop=128, ema=0.99, share=50.0),
    )


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a size and scale, with all stages or one.

    Raises:
        ValueError: unknown size, scale, stage, hardware or option.
    """
    defaults = {"size": "base", "scale": "4", "stage": "", "hardware": ""}
    options = common.parse(argument, defaults)
    size, scale = options["size"], options["scale"]
    common.check_choice("size", size, SIZES)
    common.check_choice("scale", scale, ("2", "4"))
    config = common.base()
    config.method = "iter_conv" if size == "nano" else "iter"
    config.name = f"iter-{size}" if scale == "4" else f"iter-{size}-x2"
    model = _model(size) | {"scale": int(scale)}
    if scale == "2":  # the same token grids
        sides, overlap = ((64, 128), 16) if size == "nano" else ((128, 256), 32)
        model["tile"] = dict(sides=sides, overlap=overlap, variance=0.0)
    config.model = ml_collections.ConfigDict(model)
    config.losses = ml_collections.ConfigDict(_losses(size))
    common.choose(config, _stages(size), options["stage"])
    if size == "nano":
        config.update(log_every=25, panel_every=500, validate_every=500, checkpoint_every=250)
        config.data.update(cache=True, workers=0, margin=32, validation_limit=8)
    hardware.apply(config, options["hardware"])
    return config
