"""Methods by name, for bundles and configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskgit_sr.arrays import Execution
from maskgit_sr.methods.base import Method
from maskgit_sr.methods.iter_training import ITER
from maskgit_sr.methods.iter_variants import ITERConv
from maskgit_sr.methods.realsrt import RealSRT
from maskgit_sr.methods.realsrt_variants import RealSRTTuned
from maskgit_sr.methods.sr3 import SR3, SR3Regression
from maskgit_sr.methods.sr_maskgit import Correction, Inpainting
from maskgit_sr.methods.srmap import SRMAP
from maskgit_sr.methods.structure import Structure
from maskgit_sr.methods.subpixel import Subpixel
from maskgit_sr.models.fields import short

_CLASSES = (
    RealSRT,
    RealSRTTuned,
    Correction,
    Inpainting,
    ITER,
    ITERConv,
    SR3,
    SR3Regression,
    SRMAP,
    Structure,
    Subpixel,
)
METHODS: dict[str, Any] = {cls.name: cls for cls in _CLASSES}


def build(
    name: str,
    config: Mapping[str, Any],
    execution: Execution | None = None,
    losses: Mapping[str, Any] | None = None,
    arrays: int | None = None,
) -> Method:
    """Returns the method of that name.

    Args:
        config: networks and decoding; what is left out is the method's default.
        losses: settings of the training losses, likewise.
        arrays: most arrays that the method may have, those of a bundle; None: any number.

    Raises:
        ValueError: an unknown method, or a configuration that does not fit it.
    """
    if name not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, found {short(name)}")
    found: Method = METHODS[name].build(config, losses or {}, execution or Execution(), arrays)
    return found
