"""Compiled programs kept between runs, so that only a model's first start on a machine compiles."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from maskgit_sr import assets

LIMIT_BYTES = 1 << 30
"""What the folder may hold; what was not used for longest goes first."""


def keep() -> Path | None:
    """Turns on JAX's persistent compilation cache in the user's cache folder.

    For the whole process. Whoever has chosen a folder (``JAX_COMPILATION_CACHE_DIR``), or none at
    all (``JAX_ENABLE_COMPILATION_CACHE=false``), keeps that. Programs for CPUs are only good for
    processors with the same instructions, so each kind of processor has its own folder; a home
    folder may be shared by many.

    Returns:
        The folder; None where nothing was changed, also where it cannot be written.
    """
    config: Any = jax.config  # its attributes are made at run time
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return None
    folder = assets.cache_dir() / "compiled" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    config.update("jax_compilation_cache_max_size", LIMIT_BYTES)
    config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # who compiled before this has settled that there is none
    return folder


def _processor() -> str:
    """A name for what the processor can do."""
    found = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for field in ("model name", "flags", "Features"):
        found += next(([line] for line in lines if line.startswith(field)), [])
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]
