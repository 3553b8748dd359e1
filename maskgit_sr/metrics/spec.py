"""The table of scores: units, protocols, sources and files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from maskgit_sr.assets import KNOWN
from maskgit_sr.metrics.ma_features import MIN_SIDE as MA_SIDE
from maskgit_sr.metrics.pixel import MS_SSIM_SIDE

Needs = Literal["reference", "none", "lr", "both", "samples", "samples_both", "set", "outputs"]
IMAGES: Mapping[Needs, tuple[Literal["hr", "lr"], ...]] = {
    "reference": ("hr",),
    "none": (),
    "lr": ("lr",),
    "both": ("hr", "lr"),
    "samples": ("hr",),
    "samples_both": ("hr", "lr"),
    "set": ("hr",),
    "outputs": (),
}
"""The images that a score takes after the output, in this order."""
OF_SETS = ("set", "outputs")
"""The `Needs` of scores that are one number for a whole set."""


@dataclass(frozen=True)
class Spec:
    """Definition of a score.

    Attributes:
        name: its key in `SPECS`.
        better: "higher" or "lower".
        unit: "dB", "1e-5" or "".
        min_size: the side in pixels, after the border is cut, from which every image is scored.
        color: colour space that is compared.
        text: the rest of the protocol in words.
        reference: paper, and the implementation that it agrees with.
        needs: the other images: "reference" the original, "none" there is none, "lr" the
            low-resolution input, "both" original and input, "samples" the original of several
            outputs, "samples_both" their original and input, "set" a whole set of images with
            another, "outputs" a whole set of outputs alone.
        range: of pixel values.
        resize: kernel by which images are resized first, or "none".
        border: pixels cut from each side before scoring.
        takes_border: True if `create` can set the border; it is the protocol's own where not.
        weights: SHA-256 of the files it is computed with, by asset name; None where it is unknown.
            `create` puts those of the files it has read.
    """

    name: str
    better: Literal["higher", "lower"]
    unit: str
    min_size: int
    color: str
    text: str
    reference: str
    needs: Needs = "reference"
    range: str = "[0,1]"
    resize: str = "none"
    border: int = 0
    takes_border: bool = False
    # Left out of the hash, which a dict does not have.
    weights: Mapping[str, str | None] = field(default_factory=dict, hash=False)

    @property
    def images(self) -> tuple[Literal["hr", "lr"], ...]:
        """Returns what it takes after the output, in this order."""
        return IMAGES[self.needs]

    @property
    def of_samples(self) -> bool:
        """Returns True if it takes several outputs for an image, [B,N,H,W,3]."""
        return self.needs in ("samples", "samples_both")

    @property
    def of_set(self) -> bool:
        """Returns True if it is one number for a whole set."""
        return self.needs in OF_SETS

    @property
    def protocol(self) -> str:
        """Returns the protocol as one line for a report."""
        cut = f"border of {self.border} px cut" if self.border else "no border cut"
        resized = "" if self.resize == "none" else f"resized: {self.resize}; "
        return f"{self.color}; {self.text}; {resized}{cut}; {self.better} is better"


_RGB, _CHANNELS = "RGB", "mean over R, G, B"
_Y = "BT.601 Y in [16,235]/255"
_LUMA = "8-bit luma of MATLAB's rgb2gray"
_PEAK = "peak 1, capped at 100 dB"
_WINDOW = "11x11 Gaussian window of sigma 1.5, valid positions"
_SCALES = f"{_WINDOW}; 5 scales"
_PSNR = "BasicSR calculate_psnr"
_SSIM = "Wang et al. 2004; scikit-image, the authors' MATLAB script without its downsampling"
_MS_SSIM = "Wang et al. 2003, equation 7; pytorch-msssim"
_MS_SSIM_SUM = "Wang et al. 2003; the authors' MATLAB script with method 'wtd_sum'"
_LPIPS = "Zhang et al. 2018 (arXiv:1801.03924); lpips 0.1"
_SHRUNK = "output by MATLAB's antialiased bicubic to the size of LR, unrounded"
_NTIRE = "Lugmayr et al. 2021 (NTIRE challenge on learning the SR space); its measure.py"
_NTIRE_PSNR = f"{_PEAK}; 8-bit output against the original, both cut to multiples of 8 pixels"
_BOTH_SHRUNK = "both by MATLAB's antialiased bicubic, rounded to 8 bits after each axis"
_INCEPTION = "to 299x299, bilinear without antialiasing"


def _spec(
    name: str,
    better: Literal["higher", "lower"],
    min_size: int,
    text: str,
    reference: str,
    *files: str,
    unit: str = "",
    color: str = _RGB,
    **more: Any,
) -> Spec:
    weights = {file: KNOWN[file].sha256 for file in files}
    return Spec(name, better, unit, min_size, color, text, reference, weights=weights, **more)


def _lpips(net: str, title: str, side: int, *files: str) -> Spec:
    return _spec(f"lpips_{net}", "lower", side, f"LPIPS v0.1, {title}", _LPIPS, *files)


def _niqe(name: str, color: str, reference: str, statistics: str) -> Spec:
    text = f"96x96 blocks at two scales; pristine statistics of {statistics.partition('.')[0]}"
    more: dict[str, Any] = dict(color=color, needs="none", range="[0,255]", takes_border=True)
    return _spec(name, "lower", 192, text, f"Mittal et al. 2013; {reference}", statistics, **more)


def _clipiqa(name: str, prompts: str, reference: str) -> Spec:
    text = f"CLIP ResNet-50 without positional embedding, prompts {prompts}"
    reference = f"Wang et al. 2023 (arXiv:2207.12396); {reference}"
    return _spec(name, "higher", 32, text, reference, "clip_rn50.safetensors", needs="none")


def _pixel(name: str, color: str, text: str, reference: str) -> Spec:
    unit, side = ("dB", 1) if text == _PEAK else ("", MS_SSIM_SIDE if _SCALES in text else 11)
    more: dict[str, Any] = dict(unit=unit, color=color, takes_border=True)
    return _spec(name, "higher", side, text, reference, **more)


def _ntire(name: str, text: str, needs: Needs) -> Spec:
    more: dict[str, Any] = dict(unit="dB", range="[0,255]", resize=_BOTH_SHRUNK)
    return _spec(name, "higher", 8, text, _NTIRE, needs=needs, **more)


SPECS = {
    spec.name: spec
    for spec in (
        _pixel("psnr_rgb", _RGB, _PEAK, _PSNR),
        _pixel("psnr_y", _Y, _PEAK, _PSNR),
        _pixel("ssim_rgb", _CHANNELS, _WINDOW, _SSIM),
        _pixel("ssim_y", _Y, _WINDOW, _SSIM),
        _pixel("ssim_luma", _LUMA, _WINDOW, _SSIM),
        _pixel("ms_ssim_rgb", _CHANNELS, f"{_SCALES}, product", _MS_SSIM),
        _pixel("ms_ssim_y", _Y, f"{_SCALES}, product", _MS_SSIM),
        _pixel("ms_ssim_luma", _LUMA, f"{_SCALES}, product", _MS_SSIM),
        _pixel("ms_ssim_luma_sum", _LUMA, f"{_SCALES}, weighted mean", _MS_SSIM_SUM),
        _lpips("alex", "AlexNet", 31, "lpips_alex.safetensors"),
        _lpips("squeeze", "SqueezeNet 1.1", 17, "lpips_squeeze.safetensors"),
        _lpips("vgg", "VGG16", 16, "lpips_vgg.safetensors", "vgg16.safetensors"),
        _spec(
            "dists",
            "lower",
            16,
            "DISTS, VGG16, not shrunk to 256 pixels",
            "Ding et al. 2020 (arXiv:2004.07728); DISTS_pytorch",
            "vgg16.safetensors",
            "dists_alpha_beta.safetensors",
        ),
        _niqe("niqe", _LUMA, "authors' 2012 release, IQA-PyTorch niqe", "niqe_params.npz"),
        _niqe("niqe_y", f"8-bit {_Y}", "BasicSR calculate_niqe", "niqe_params.npz"),
        _niqe("niqe_matlab", _LUMA, "MATLAB's built-in niqe", "niqe_matlab_params.mat"),
        _spec(
            "ma",
            "higher",
            MA_SIDE,
            "three random forests of 138 features",
            "Ma et al. 2017 (arXiv:1612.05890); the authors' MATLAB code",
            "ma.safetensors",
            color=_LUMA,
            needs="none",
            range="[0,255]",
            takes_border=True,
        ),
        _spec(
            "pi",
            "lower",
            192,
            "perceptual index (10 - Ma + NIQE) / 2 with pristine statistics of niqe_params",
            "Blau et al. 2018 (arXiv:1809.07517); the PIRM challenge's MATLAB code",
            "ma.safetensors",
            "niqe_params.npz",
            color=f"8-bit {_Y}",
            needs="none",
            range="[0,255]",
            border=4,
        ),
        _clipiqa("clipiqa", "'Good photo.' and 'Bad photo.'", "the authors' settings"),
        _clipiqa("clipiqa_pyiqa", "of IQA-PyTorch, five pairs", "IQA-PyTorch clipiqa"),
        _spec(
            "musiq",
            "higher",
            32,
            "MUSIQ trained on KonIQ",
            "Ke et al. 2021 (arXiv:2108.05997); google-research/musiq",
            "koniq_ckpt.npz",
            needs="none",
            resize="to 224 and 384 pixels at the longer side, Gaussian, beside the image itself",
        ),
        _spec(
            "lr_psnr",
            "higher",
            1,
            _PEAK,
            "Lugmayr et al. 2020 (SRFlow), which also rounds",
            unit="dB",
            needs="lr",
            resize=_SHRUNK,
        ),
        _spec(
            "lr_consistency",
            "lower",
            1,
            "mean squared error of pixels in [0,1] (in [-1,1] it is four times as large)",
            "Saharia et al. 2023 (SR3), table 1, which does not state the range",
            unit="1e-5",
            needs="lr",
            resize=_SHRUNK,
        ),
        _ntire("lr_psnr_ntire", _NTIRE_PSNR, needs="both"),
        _ntire("lr_psnr_ntire_worst", f"{_NTIRE_PSNR}; worst output", needs="samples_both"),
        _spec(
            "diversity",
            "higher",
            32,
            "100 (g - l) / g: g LPIPS v0.1 (AlexNet) of the best output, l that of the best output "
            "at each pixel, images cut to multiples of 8 pixels",
            _NTIRE,
            "lpips_alex.safetensors",
            unit="%",
            needs="samples",
        ),
        _spec(
            "fid",
            "lower",
            1,
            "pool_3 of Inception-v3 (2015-12-05), two whole sets",
            "Heusel et al. 2017 (arXiv:1706.08500); pytorch-fid",
            "inception_fid.safetensors",
            needs="set",
            resize=_INCEPTION,
        ),
        _spec(
            "is",
            "higher",
            1,
            "1008 classes of Inception-v3 (2015-12-05), logits without bias; mean of 10 parts of "
            "the set, image i in part i mod 10",
            "Salimans et al. 2016 (arXiv:1606.03498); the authors' code but for the resizing",
            "inception_fid.safetensors",
            needs="outputs",
            resize=_INCEPTION,
        ),
    )
}
