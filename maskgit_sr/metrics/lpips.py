"""LPIPS as a score: Zhang et al. 2018 (arXiv:1801.03924), version 0.1.

Protocol: RGB in [0,1] as they are (no resizing, no border cut, no rounding), lower is better,
about 0 to 1. "alex" is what super-resolution papers report; "squeeze" is often trained against, so
report "alex" for a model that was. "vgg" needs two files that are not on hand here: its network was
compared with PyTorch's on random weights only.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from maskgit_sr.arrays import Image
from maskgit_sr.metrics.programs import by_size
from maskgit_sr.perceptual import distances as perceptual


def load(
    net: Literal["alex", "squeeze", "vgg"] = "alex", path: str | Path | None = None
) -> Callable[[Image, Image], perceptual.Distance]:
    """Returns the score (x, y) -> [B] float32 of images [B,H,W,3] in [0,1]; jitted per shape.

    Sides are at least 31 pixels ("alex"), 17 ("squeeze") or 16 ("vgg"); a smaller image is a
    ValueError.

    Raises:
        UserError: the weights are absent; see `maskgit_sr.assets.find`, which `path` goes to.
    """
    # Accelerators multiply in less than float32 by default; a score must not depend on the device.
    model = perceptual.load_lpips(net, path, precision="highest")
    apply = by_size(model.apply)
    return lambda x, y: apply(model.params, x, y)
