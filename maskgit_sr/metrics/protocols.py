"""Evaluation protocols of papers, by name: metrics, border and crop."""

from __future__ import annotations

import dataclasses

from maskgit_sr.errors import UserError


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Protocol by which a set of images is scored.

    Attributes:
        name: of the preset; "custom" once something was changed.
        metrics: keys of `metrics.SPECS`.
        border: pixels that PSNR, SSIM and MS-SSIM cut from each side.
        crop: side of a square from the centre that is scored, in pixels of the output; 0: all.
        text: where it comes from.
    """

    name: str
    metrics: tuple[str, ...]
    border: int = 0
    crop: int = 0
    text: str = ""

    def changed(
        self,
        metrics: tuple[str, ...] | None = None,
        border: int | None = None,
        crop: int | None = None,
    ) -> Protocol:
        """Returns this protocol with other metrics, border or crop; None keeps a value."""
        values = {"metrics": metrics, "border": border, "crop": crop}
        new = dataclasses.replace(self, **{k: v for k, v in values.items() if v is not None})  # type: ignore[arg-type]
        return self if new == self else dataclasses.replace(new, name="custom")


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "realsrt",
            ("psnr_rgb", "ms_ssim_luma", "lpips_alex", "dists", "niqe", "clipiqa_pyiqa"),
            text="RealSRT §4: whole images, RGB PSNR, no border cut, scores as pyiqa's",
        ),
        Protocol(
            "osediff",
            ("psnr_y", "ssim_y", "lpips_alex", "dists", "fid", "niqe", "musiq", "clipiqa"),
            crop=512,
            text="StableSR, OSEDiff: LR of 128 to 512 from the centre, PSNR and SSIM on Y",
        ),
        Protocol(
            "classical",
            ("psnr_y", "ssim_y", "lpips_alex"),
            border=4,
            text="bicubic x4 sets: PSNR and SSIM on Y without a border of 4",
        ),
        Protocol(
            "iter",
            ("niqe", "pi"),
            text="ITER, table 1: whole images; scores as pyiqa's, whose PI is near the challenge's",
        ),
        Protocol(
            "sr3",
            ("psnr_rgb", "ssim_rgb", "lr_consistency", "fid", "is"),
            text="SR3, tables 1 and 2; colour and border are the public re-implementation's",
        ),
        Protocol(
            "ntire",
            ("lpips_alex", "lr_psnr_ntire", "lr_psnr_ntire_worst", "diversity"),
            text="NTIRE 2021, learning the SR space: means over ten outputs an image",
        ),
    )
}


def find(name: str) -> Protocol:
    """Returns the preset of that name.

    Raises:
        UserError: there is none.
    """
    if name not in PROTOCOLS:
        raise UserError(f"--protocol: expected one of {', '.join(PROTOCOLS)}, found '{name}'")
    return PROTOCOLS[name]
