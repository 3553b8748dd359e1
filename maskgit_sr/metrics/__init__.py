"""Scores, each with the protocol that it was taken under.

`create(["psnr_y", "lpips_alex"])` gives callables with their `Spec`; write `spec.protocol` beside
every number. There is no plain "psnr": a name says its colour.

Images are RGB [B,H,W,3] in [0,1]; scores are [B] float32. Scores of special images:

- equal images: PSNR and LR-PSNR 100 dB, SSIM and MS-SSIM 1, LPIPS, DISTS, LR consistency and
  diversity 0;
- flat images: as any other, but NIQE, Ma and PI are NaN, since nothing is left that has statistics;
- an image that holds NaN or infinity, anywhere: NaN;
- an image below `Spec.min_size`: ValueError, with the size that it takes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from maskgit_sr import assets as _assets
from maskgit_sr.arrays import Image
from maskgit_sr.errors import UserError
from maskgit_sr.metrics import diversity, fid, inception_score, lpips, lr, ma, networks, niqe
from maskgit_sr.metrics.pixel import Score, ms_ssim, psnr, ssim
from maskgit_sr.metrics.spec import SPECS, Spec


@dataclass(frozen=True)
class Metric:
    """A `Spec` and its score of single images.

    `metric(x, y)` if the spec needs a "reference", `metric(x, lr)` if it needs "lr",
    `metric(x, y, lr)` if it needs "both", `metric(x)` if it needs "none": images [B,H,W,3] in [0,1]
    -> [B] float32, NaN for images that hold one. If it needs "samples", x is [B,N,H,W,3].
    """

    spec: Spec
    score: Callable[..., Score]

    def __call__(self, *images: Image) -> Score:
        arrays = [np.asarray(image) for image in images]
        # The whole image, also what a border or NIQE's blocks leave out: broken outputs get no
        # score. By NumPy, which compiles nothing for an image's size.
        whole = [np.isfinite(array).all(tuple(range(1, array.ndim))) for array in arrays]
        return jnp.where(np.all(whole, axis=0), self.score(*arrays), jnp.nan)


@dataclass(frozen=True)
class SetMetric:
    """A `Spec` and its score of whole sets.

    `add(x, y)` as images come, or `add(x)` if the spec needs "outputs", then `value()`. Memory does
    not grow with their number. `clear()` begins anew.
    """

    spec: Spec
    score: fid.FrechetDistance | inception_score.InceptionScore

    def add(self, *images: Image) -> None:
        """Adds images [B,H,W,3] in [0,1], outputs first."""
        self.score.add(*images)

    def value(self) -> float:
        """Returns the score of what was added; NaN if an image held one.

        Raises:
            ValueError: too few images.
        """
        return self.score.value()

    def clear(self) -> None:
        """Forgets all images."""
        self.score.clear()


_PIXEL: dict[str, Callable[..., Score]] = {
    f"{kind}_{color}": partial(function, color=color)
    for kind, function in (("psnr", psnr), ("ssim", ssim), ("ms_ssim", ms_ssim))
    for color in ("rgb", "y", "luma")
}
_LR: dict[str, Callable[..., Score]] = {
    "lr_psnr": lr.lr_psnr,
    "lr_psnr_ntire": lr.lr_psnr_ntire,
    "lr_psnr_ntire_worst": diversity.lr_psnr_worst,
    "lr_consistency": lr.lr_consistency,
}
_PIXEL["ms_ssim_luma_sum"] = partial(ms_ssim, color="luma", method="sum")


def create(
    names: Iterable[str], *, border: int = 0, assets: str | Path | None = None
) -> dict[str, Any]:
    """Returns the metrics `names` in that order, each a `Metric`, or a `SetMetric` for a set.

    Args:
        names: keys of `SPECS`.
        border: pixels that PSNR, SSIM, MS-SSIM, NIQE and Ma cut from each side; others take whole
            images, and PI cuts the four of its definition.
        assets: a folder with the weights; by default searched as `assets.find` says.

    Raises:
        UserError: an unknown name, a negative border, or weights that are absent or broken.
    """
    if border < 0:
        raise UserError(f"border {border}: expected 0 or more")
    metrics: dict[str, Metric | SetMetric] = {}
    for name in names:
        spec = _spec(name)
        files = {file: _assets.find(file, assets) for file in spec.weights}
        spec = replace(
            spec,
            border=border if spec.takes_border else spec.border,
            weights={file: _assets.digest(path) for file, path in files.items()},
        )
        if spec.of_set:
            load = fid.load if spec.needs == "set" else inception_score.load
            metrics[name] = SetMetric(spec, load(*files.values()))
        else:
            metrics[name] = Metric(spec, _score(spec, list(files.values()), assets))
    return metrics


def available(name: str, assets: str | Path | None = None) -> str | None:
    """Returns None if the metric's files are there, else one line that says what is missing.

    Raises:
        UserError: an unknown name.
    """
    try:
        for file in _spec(name).weights:
            _assets.find(file, assets)
    except UserError as error:
        if name not in SPECS:  # a mistake, not a missing file
            raise
        return str(error)
    return None


def _spec(name: str) -> Spec:
    if name not in SPECS:
        raise UserError(f"metric {name!r}: expected one of {', '.join(SPECS)}")
    return SPECS[name]


def _score(spec: Spec, files: list[Path], assets: str | Path | None) -> Callable[..., Score]:
    if spec.name in _PIXEL:
        return partial(_PIXEL[spec.name], border=spec.border)
    if spec.name in _LR:
        return _LR[spec.name]
    kind, _, variant = spec.name.partition("_")
    if kind == "lpips":
        return lpips.load(variant, assets)  # type: ignore[arg-type]
    if kind == "diversity":
        return diversity.load(assets)
    if kind == "niqe":
        return niqe.load(files[0], "y" if variant == "y" else "luma", spec.border)
    if kind == "ma":
        return ma.load(files[0], "luma", spec.border)
    if kind == "pi":
        return ma.load_index(files[0], files[1], spec.border)
    if kind == "clipiqa":
        prompts = networks.PYIQA_PROMPTS if variant == "pyiqa" else networks.PAPER_PROMPTS
        return networks.load_clipiqa(files[0], prompts=prompts)
    return networks.load_dists(*files) if kind == "dists" else networks.load_musiq(*files)
