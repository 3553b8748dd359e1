"""RealSRT's public PyTorch code, from a checkout, without the training framework it imports.

Needs a checkout of https://github.com/USTC-JialunPeng/RealSRT and an environment that has PyTorch
and einops beside this package (``pip install "maskgit-sr[convert]" einops``).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_sr.errors import UserError

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
STEPS = 4


class Reference:
    """The published network with random weights, on a GPU if PyTorch sees one.

    Attributes:
        where: ``cuda`` or ``cpu``.
        state: its weights by the names of a checkpoint, which `maskgit_sr.convert.realsrt` reads.

    Args:
        threads: CPU cores PyTorch may use, 0: its own choice.

    Raises:
        UserError: the folder is no such checkout, or PyTorch or einops cannot be imported.
    """

    def __init__(self, folder: Path, threads: int = 0):
        if not (folder / "realsrt" / "archs" / "realsrt_arch.py").is_file():
            raise UserError(f"--reference: expected a checkout of RealSRT, found {folder}")
        try:
            import einops  # noqa: F401
            import torch
        except ImportError as error:
            raise UserError(f"--reference needs PyTorch and einops: {error}") from error
        if threads:
            torch.set_num_threads(threads)
        self.torch: Any = torch
        self.where = "cuda" if torch.cuda.is_available() else "cpu"
        self._code = _architecture(folder, torch, self.where)
        torch.manual_seed(0)
        network = self._code.RealSRT(use_critic=True, use_ccm=True)
        self._network = network.eval().to(self.where)
        self.state = {name: value.cpu().numpy() for name, value in network.state_dict().items()}

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those of ``PRECISIONS`` that are of use: on CPUs PyTorch takes minutes a tile in half."""
        return PRECISIONS if self.where == "cuda" else PRECISIONS[:1]

    def restore(self, tiles: np.ndarray, precision: str, batch: int) -> np.ndarray:
        """Restored tiles, float32 [n, 256, 256, 3], of LR tiles, float32 [n, 64, 64, 3] in [0, 1].

        Args:
            precision: ``float32`` is what the public code runs in, with PyTorch's own settings;
                ``tf32`` allows TF32 in matrix products too, as JAX does; the others are
                PyTorch's autocast, around the network and not the colour correction.
            batch: tiles a call of the network.
        """
        parts = []
        with self.torch.no_grad(), self._precision(precision):
            for start in range(0, len(tiles), batch):
                part = np.ascontiguousarray(tiles[start : start + batch].transpose(0, 3, 1, 2))
                lr = self.torch.from_numpy(part).to(self.where)
                with self._autocast(precision):
                    image = self._network.forward_with_ccm(lr, STEPS)
                image = self._code.adaptive_instance_normalization(image.float(), lr)
                parts.append(image.cpu().numpy().transpose(0, 2, 3, 1))
        return np.concatenate(parts)

    @functools.cached_property
    def flops(self) -> float:
        """FLOPs of one tile as PyTorch's own counter has them, who watches one being restored."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.restore(np.zeros((1, 64, 64, 3), np.float32), "float32", 1)
        return float(counter.get_total_flops())

    @contextlib.contextmanager
    def _precision(self, precision: str) -> Iterator[None]:
        before = self.torch.get_float32_matmul_precision()
        self.torch.set_float32_matmul_precision("high" if precision == "tf32" else before)
        try:
            yield
        finally:
            self.torch.set_float32_matmul_precision(before)

    def _autocast(self, precision: str) -> Any:
        if precision in ("float32", "tf32"):
            return contextlib.nullcontext()
        return self.torch.autocast(self.where, dtype=getattr(self.torch, precision))


def _architecture(folder: Path, torch: Any, where: str) -> Any:
    """The checkout's network module, without the training framework its packages import."""

    def package(name: str, path: Path | None = None) -> types.ModuleType:
        module = types.ModuleType(name)
        module.__path__ = [] if path is None else [str(path)]
        sys.modules[name] = module
        return module

    class Registry:
        def register(self) -> Callable[[Any], Any]:
            return lambda item: item

    for name in ("basicsr", "basicsr.utils"):
        package(name)
    package("basicsr.utils.registry").ARCH_REGISTRY = Registry()  # type: ignore[attr-defined]
    package("realsrt", folder / "realsrt")
    package("realsrt.archs", folder / "realsrt" / "archs")
    np.float = float  # type: ignore[attr-defined]  # gone since NumPy 1.24
    if where == "cpu":  # the code copies its codebook through a GPU
        torch.Tensor.cuda = lambda self, *args, **kwargs: self
    return importlib.import_module("realsrt.archs.realsrt_arch")
