"""The worked example of docs/adding_a_method.md: a ×2 filter, trained in a minute on a CPU.

python -m launch.train --config configs/subpixel.py --workdir W --config.data.root PHOTOS
"""

from __future__ import annotations

import ml_collections

from configs import common


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """Returns the config, with both stages or one (``stage=pretrain``).

    Raises:
        ValueError: unknown stage or option.
    """
    options = common.parse(argument, {"stage": ""})
    config = common.base()
    config.name = config.method = "subpixel"
    config.update(log_every=50, panel_every=500, validate_every=500, checkpoint_every=500)
    config.data.update(preset="bicubic", margin=0, workers=0)
    stages = dict(
        pretrain=common.stage(500, 8, common.optimizer(1e-3, 1e-4), crop=64, ema=0.99),
        finetune=common.stage(250, 8, common.optimizer(3e-4, 1e-5), crop=64, ema=0.99),
    )
    common.choose(config, stages, options["stage"])
    return config
