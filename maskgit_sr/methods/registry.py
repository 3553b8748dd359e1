"""Methods by name, for bundles and configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from maskgit_sr.arrays import Execution
from maskgit_sr.methods.base import Method
from maskgit_sr.methods.realsrt import RealSRT, RealSRTConfig

_BUILDERS: dict[str, Callable[[Mapping[str, Any], Execution], Method]] = {
    "realsrt": lambda config, execution: RealSRT(RealSRTConfig.from_dict(config), execution),
}


def build(name: str, config: Mapping[str, Any], execution: Execution | None = None) -> Method:
    """The method of that name and configuration.

    Raises:
        ValueError: unknown method, or a configuration that does not fit it.
    """
    if name not in _BUILDERS:
        raise ValueError(f"method: expected one of {', '.join(_BUILDERS)}, found {name!r}")
    return _BUILDERS[name](config, execution or Execution())
