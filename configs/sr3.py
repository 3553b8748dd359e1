"""SR3: ``configs/sr3.py:SIZE,method=METHOD,stage=STAGE,hardware=HARDWARE``.

SIZE is base (×8, 16 → 128 pixels, the re-implementation's network, the paper's schedule), small or
nano (×4; nano trains on two CPU cores in about 45 minutes). METHOD is diffusion, or regression: the
same network, trained to predict the image in one pass.

    python -m launch.train --config configs/sr3.py:nano --workdir W --config.data.root PHOTOS

HARDWARE moves the schedule to a machine (configs/hardware.py).
"""

from __future__ import annotations

import ml_collections

from configs import common, hardware

SIZES = ("base", "small", "nano")
METHODS = dict(diffusion="sr3", regression="sr3_regression")


def _model(size: str) -> dict[str, object]:
    if size == "base":  # the method's defaults are the re-implementation's network
        return {}
    # No attention: windows of any size are then seen alike. 8 channels a group at least.
    unet = dict(blocks=1, attention=(), middle_attention=False, dropout=0.0)
    if size == "small":
        unet |= dict(width=32, multipliers=(1, 2, 2, 4), groups=4)
    else:
        unet |= dict(width=24, multipliers=(1, 2, 2, 3), groups=3)
    return dict(
        scale=4,
        tile=dict(sides=(32, 64), overlap=16, variance=0.0),
        unet=unet,
        target="residual",
    )


def _stage(size: str, method: str) -> ml_collections.ConfigDict:
    stage, adam = common.stage, common.optimizer
    if size == "base":
        # The paper: 1 M steps of 256 examples, Adam, 10,000 steps of warm-up.
        rate = 1e-4 if method == "diffusion" else 1e-5
        return stage(1_000_000, 256, adam(rate, rate, warmup=10_000), crop=128, ema=0.9999)
    if size == "small":
        return stage(100_000, 32, adam(3e-4, 1e-5, warmup=1000, clip=1.0), crop=128, ema=0.999)
    return stage(2500, 16, adam(5e-4, 1e-5, warmup=100, clip=1.0), crop=64, ema=0.995)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config of a size and method; its one stage has the method's name.

    Raises:
        ValueError: unknown size, method, stage, hardware or option.
    """
    defaults = {"size": "base", "method": "diffusion", "stage": "", "hardware": ""}
    options = common.parse(argument, defaults)
    size, method = options["size"], options["method"]
    common.check_choice("size", size, SIZES)
    common.check_choice("method", method, METHODS)
    config = common.base()
    config.method = METHODS[method]
    config.name = f"{config.method}-{size}"
    config.model = ml_collections.ConfigDict(_model(size))
    common.choose(config, {method: _stage(size, method)}, options["stage"])
    config.data.update(preset="bicubic", margin=0)  # as in the paper
    if size == "nano":
        config.update(log_every=25, panel_every=500, validate_every=500, checkpoint_every=250)
        config.data.update(cache=True, workers=0, validation_limit=4)
    hardware.apply(config, options["hardware"])
    return config
