"""Scores, each with the protocol that it was taken under.

`create(["psnr_y", "lpips_alex"])` gives callables with their `Spec`; write `spec.protocol` beside
every number. There is no plain "psnr": a name says its colour.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from maskgit_sr.arrays import Image
from maskgit_sr.errors import UserError
from maskgit_sr.metrics import lpips
from maskgit_sr.metrics.pixel import Score, ms_ssim, psnr, rgb_to_y, ssim

__all__ = ["SPECS", "Metric", "Spec", "create", "ms_ssim", "psnr", "rgb_to_y", "ssim"]


@dataclass(frozen=True)
class Spec:
    """What a score is.

    Attributes:
        name: its key in `SPECS`.
        better: "higher" or "lower".
        unit: "dB" or "".
        min_size: the least side in pixels, after the border is cut.
        text: colour space and constants in words.
        border: pixels cut from each side before scoring.
    """

    name: str
    better: str
    unit: str
    min_size: int
    text: str
    border: int = 0

    @property
    def protocol(self) -> str:
        """One line for a report."""
        cut = f"border of {self.border} px cut" if self.border else "no border cut"
        return f"{self.text}; {cut}; {self.better} is better"


@dataclass(frozen=True)
class Metric:
    """A `Spec` and its score (x, y) -> [B] float32; x and y are RGB [B,H,W,3] in [0,1]."""

    spec: Spec
    score: Callable[[Image, Image], Score]

    def __call__(self, x: Image, y: Image) -> Score:
        return self.score(x, y)


_Y = "BT.601 Y in [16,235]/255"
_LUMA = "8-bit luma 0.299 R + 0.587 G + 0.114 B"
_SSIM = "11x11 Gaussian window of sigma 1.5, valid positions"

SPECS = {
    spec.name: spec
    for spec in (
        Spec("psnr_rgb", "higher", "dB", 1, "RGB, peak 1, capped at 100 dB"),
        Spec("psnr_y", "higher", "dB", 1, f"{_Y}, peak 1, capped at 100 dB"),
        Spec("ssim_rgb", "higher", "", 11, f"mean over R, G, B; {_SSIM}"),
        Spec("ssim_y", "higher", "", 11, f"{_Y}; {_SSIM}"),
        Spec("ssim_luma", "higher", "", 11, f"{_LUMA}; {_SSIM}"),
        Spec("ms_ssim_y", "higher", "", 176, f"{_Y}; {_SSIM}; 5 scales, product"),
        Spec("ms_ssim_luma", "higher", "", 176, f"{_LUMA}; {_SSIM}; 5 scales, product"),
        Spec("lpips_alex", "lower", "", 31, "RGB; LPIPS v0.1, AlexNet"),
        Spec("lpips_squeeze", "lower", "", 17, "RGB; LPIPS v0.1, SqueezeNet 1.1"),
    )
}

_PIXEL = {"psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim}


def create(
    names: Iterable[str], *, border: int = 0, assets: str | Path | None = None
) -> dict[str, Metric]:
    """The metrics called `names`, in that order.

    Args:
        names: keys of `SPECS`.
        border: pixels that PSNR, SSIM and MS-SSIM cut from each side; LPIPS takes whole images.
        assets: a folder with the LPIPS weights; by default searched as `assets.find` says.

    Raises:
        UserError: an unknown name, a negative border, or absent weights.
    """
    if border < 0:
        raise UserError(f"border {border}: expected 0 or more")
    metrics = {}
    for name in names:
        if name not in SPECS:
            raise UserError(f"metric {name!r}: expected one of {', '.join(SPECS)}")
        if name == "lpips_alex":
            metrics[name] = Metric(SPECS[name], lpips.load("alex", assets))
        elif name == "lpips_squeeze":
            metrics[name] = Metric(SPECS[name], lpips.load("squeeze", assets))
        else:
            kind, _, color = name.rpartition("_")
            score = partial(_PIXEL[kind], color=color, border=border)
            metrics[name] = Metric(replace(SPECS[name], border=border), score)
    return metrics
