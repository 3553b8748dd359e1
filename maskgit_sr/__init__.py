"""Masked-token real-world image super-resolution.

>>> import maskgit_sr
>>> upscaler = maskgit_sr.load()
>>> result = upscaler("photo.jpg")  # or a PIL image, an array, a list of them
>>> result.save("photo_x4.png")  # result.image, result.confidence, result.tokens
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from maskgit_sr.inference import DEFAULT_MODEL as DEFAULT_MODEL

# gs:// goes through gcsfs, also where TensorFlow, which epath would prefer, is there for exports.
os.environ.setdefault("EPATH_USE_TF", "0")

if TYPE_CHECKING:
    from maskgit_sr.errors import UserError as UserError
    from maskgit_sr.inference.load import ModelInfo as ModelInfo
    from maskgit_sr.inference.load import list_models as list_models
    from maskgit_sr.inference.load import load as load
    from maskgit_sr.inference.results import Restoration as Restoration
    from maskgit_sr.inference.results import Result as Result
    from maskgit_sr.inference.upscaler import Upscaler as Upscaler

__version__ = "0.1.0"

_WHERE = {
    "UserError": "errors",
    "ModelInfo": "inference.load",
    "list_models": "inference.load",
    "load": "inference.load",
    "Restoration": "inference.results",
    "Result": "inference.results",
    "Upscaler": "inference.upscaler",
}
__all__ = sorted([*_WHERE, "DEFAULT_MODEL"])


def __getattr__(name: str) -> Any:
    # lazy, so that `import maskgit_sr` and `maskgit-sr --help` do not pay for JAX
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
