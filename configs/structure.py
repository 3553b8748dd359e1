"""Structure path, taught by larger networks: ``configs/structure.py``, the model `realsrt-small`.

    python -m data.teach --input PHOTOS --output TAUGHT/web --preset web --teacher ncnn:…
    python -m launch.train --config configs/structure.py --workdir W \
        --config.init START --config.data.root "TAUGHT/web*0.4;TAUGHT/lens*0.6"

START is a bundle of this method, such as ``maskgit-sr convert compact FOLDER/NAME START`` makes of
published ncnn files. docs/training_log.md has the commands of the shipped weights.
"""

from __future__ import annotations

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config; its one stage is ``distil``.

    Raises:
        ValueError: unknown stage or option.
    """
    options = common.parse(argument, {"stage": ""})
    config = common.base()
    config.name, config.method = "realsrt-small", "structure"
    config.losses.update(perceptual="lpips_squeeze", perceptual_weight=1.0, perceptual_shift=16)
    config.losses.update(lattice=2.0)  # else strong noise leaves a grid of 4 pixels
    config.update(log_every=50, panel_every=1000, validate_every=500, checkpoint_every=250)
    config.data.update(workers=0, validation_limit=16)
    adam = common.optimizer(4e-4, 1e-5, warmup=100, clip=1.0)
    stages = dict(distil=common.stage(20_000, 8, adam, crop=192, ema=0.998))
    common.choose(config, stages, options["stage"])
    return config
