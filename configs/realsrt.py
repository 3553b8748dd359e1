"""RealSRT: ``configs/realsrt.py:SIZE,stage=STAGE``.

SIZE is base (published: 4 stages, 8×V100, RealSR LPIPS 0.2527), small or nano; STAGE is tokenizer,
generator, critic or control, run in that order in one workdir:

    python -m launch.train --config configs/realsrt.py:nano,stage=tokenizer --workdir W \
        --config.data.root PHOTOS

nano is meant for two CPU cores and some two and a half hours for all four stages. Its settings are
those of the weights that ship, but for what docs/training_log.md says of their first steps.
"""

from __future__ import annotations

import ml_collections

from configs import common

SIZES = ("base", "small", "nano")
STAGES = ("tokenizer", "generator", "critic", "control")


def _transformer(**changes: object) -> dict[str, object]:
    return dict(grid=(32, 32), **changes)


def _model(size: str) -> dict[str, object]:
    if size == "base":
        return {}  # RealSRTConfig's defaults are the published network
    if size == "small":
        width = dict(dim=192, heads=3, head_dim=64, code_width=96, sharpness=2.0)
        return dict(
            tokenizer=dict(
                channels=(96, 192),
                patch=4,
                encoder_blocks=1,
                decoder_blocks=2,
                encoder_bottom=1,
                decoder_bottom=1,
                code_width=96,
                narrow_up=True,
                groups=0,
            ),
            generator=_transformer(encoder_depth=2, decoder_depth=3, **width),
            critic=_transformer(outputs=1, masked=False, encoder_depth=1, decoder_depth=1, **width),
            discriminator=dict(filters=64, layers=3),
            losses=dict(
                pixel="l1",
                perceptual="lpips_squeeze",
                perceptual_weight=0.3,
                bypass=0.3,
                adversarial_weight=0.5,
                adversarial_start=20_000,
                tune_decoder=True,
            ),
        )
    width = dict(dim=128, heads=2, head_dim=64, code_width=64, sharpness=2.0)
    return dict(
        tokenizer=dict(
            channels=(64, 128), patch=4, encoder_blocks=1, decoder_blocks=2,
            encoder_bottom=0, decoder_bottom=0, code_width=64, narrow_up=True, groups=0,
        ),
        generator=_transformer(encoder_depth=1, decoder_depth=2, **width),
        critic=_transformer(outputs=1, masked=False, encoder_depth=1, decoder_depth=1, **width),
        discriminator=dict(filters=32, layers=3),
        losses=dict(
            pixel="l1", perceptual="lpips_squeeze", perceptual_weight=0.6, bypass=0.5,
            adversarial_weight=0.0,
            control_steps=2,
            tune_decoder=True,
        ),
    )  # fmt: skip


def _stages(size: str) -> dict[str, ml_collections.ConfigDict]:
    adamw = dict(weight_decay=0.01, b2=0.999)
    if size == "base":  # §4.1: batch 64 and 8, Adam 4e-5, AdamW 1e-4 → 1e-7 over 800 k steps
        token = common.stage(800_000, 64, common.optimizer(1e-4, 1e-7, **adamw))
        return dict(
            tokenizer=common.stage(43_000, 64, common.optimizer(4e-5, 4e-5), ema=0.0),
            generator=token,
            critic=token.copy_and_resolve_references(),
            control=common.stage(80_000, 8, common.optimizer(4e-5, 4e-5)),
        )
    if size == "small":
        token = common.stage(
            60_000, 64, common.optimizer(6e-4, 1e-6, warmup=1000, clip=1.0, **adamw)
        )
        return dict(
            tokenizer=common.stage(
                60_000, 64, common.optimizer(4e-4, 1e-5, warmup=500, clip=1.0), crop=128
            ),
            generator=token,
            critic=token.copy_and_resolve_references(),
            control=common.stage(60_000, 32, common.optimizer(4e-4, 1e-5, warmup=500, clip=1.0)),
        )
    image = dict(warmup=50, clip=1.0)
    token = dict(warmup=50, clip=1.0, **adamw)
    return dict(
        tokenizer=common.stage(5000, 8, common.optimizer(1e-3, 5e-5, **image), crop=128, ema=0.99),
        generator=common.stage(1500, 4, common.optimizer(1e-3, 1e-5, **token), ema=0.99),
        critic=common.stage(360, 4, common.optimizer(1e-3, 1e-5, **token), ema=0.98),
        control=common.stage(1450, 4, common.optimizer(4e-4, 1e-5, **image), ema=0.99),
    )


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config of one stage of one size.

    Raises:
        ValueError: unknown size, stage or option.
    """
    options = common.parse(argument, {"size": "base", "stage": "tokenizer"})
    size, stage = options["size"], options["stage"]
    if size not in SIZES:
        raise ValueError(f"size: expected one of {', '.join(SIZES)}, found {size!r}")
    if stage not in STAGES:
        raise ValueError(f"stage: expected one of {', '.join(STAGES)}, found {stage!r}")
    config = common.base()
    config.name = f"realsrt-{size}"
    config.method = "realsrt"
    config.stage_name = stage
    config.model = ml_collections.ConfigDict(_model(size))
    config.stage = _stages(size)[stage]
    config.perceptual = config.model.get("losses", {}).get("perceptual", "vgg19")
    if size == "nano":
        config.update(log_every=25, panel_every=500, validate_every=500, checkpoint_every=250)
        config.data.update(cache=True, workers=0, margin=32, validation_limit=8, preset="camera")
    if stage == "tokenizer":  # learns to reconstruct photographs, and sees no LR image
        config.data.update(preset="none", margin=0)
    return config
