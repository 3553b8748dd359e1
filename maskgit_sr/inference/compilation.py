"""Persistent cache of compiled programs: only a model's first start on a machine compiles."""

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
"""Largest size of the folder; the least recently used programs are deleted first."""
_LEAST_SECONDS = 0.05
"""Shortest compilation that is kept: a small network's on a CPU, but not every sum's."""


def keep() -> Path | None:
    """Turns on JAX's persistent compilation cache in the user's cache folder.

    Acts on the whole process. A folder chosen by ``JAX_COMPILATION_CACHE_DIR``, or none by
    ``JAX_ENABLE_COMPILATION_CACHE=false``, stays. Programs for CPUs run only on processors with the
    same instructions, and machines may share a home folder, so each kind of processor has a folder
    of its own.

    Returns:
        The folder, or None if nothing was changed or the folder cannot be written.
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
    config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # a compilation before this has settled that there is no cache
    return folder


def _processor() -> str:
    """Returns a hash of the processor's model and instruction sets."""
    found = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for field in ("model name", "flags", "Features"):
        found += next(([line] for line in lines if line.startswith(field)), [])
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]
