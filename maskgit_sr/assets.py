"""Lookup of the files of perceptual networks and image-quality statistics.

These files are other people's work and are never committed here. They are searched for at an
explicit path, in the folder named by `MASKGIT_SR_ASSETS`, in `../shared/metrics` beside a source
checkout, and in the user's cache, in this order.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from maskgit_sr.errors import UserError

ENV = "MASKGIT_SR_ASSETS"


@dataclass(frozen=True)
class Asset:
    """A file published by others.

    Attributes:
        what: contents, as messages name them.
        source: address at its publisher, and the conversion if our file has another format.
        sha256: digest of the file that scores were verified with; None where it was not at hand.
            (The name of a PyTorch file carries the first digits of its own digest.)
    """

    what: str
    source: str
    sha256: str | None = None


def _converted(address: str) -> str:
    return f"{address}, converted by python -m maskgit_sr.convert.networks"


_TORCH = "https://download.pytorch.org/models"
_LPIPS = "https://github.com/richzhang/PerceptualSimilarity lpips/weights/v0.1"

KNOWN = {
    "lpips_alex.safetensors": Asset(
        "torchvision AlexNet + LPIPS v0.1 linear layers",
        _converted(f"{_TORCH}/alexnet-owt-7be5be79.pth and {_LPIPS}/alex.pth"),
        "137fae61e223a0ffeb6b56e2ef8c925a36a106ef8b15d24a234071617b3ed744",
    ),
    "lpips_squeeze.safetensors": Asset(
        "torchvision SqueezeNet 1.1 + LPIPS v0.1 linear layers",
        _converted(f"{_TORCH}/squeezenet1_1-b8a52dc0.pth and {_LPIPS}/squeeze.pth"),
        "6090f8f626c2d780c19fce5d7e96f016580516a7831b4e1634cfa1afa4e12240",
    ),
    "lpips_vgg.safetensors": Asset(
        "LPIPS v0.1 linear layers for VGG16", _converted(f"{_LPIPS}/vgg.pth")
    ),
    "vgg16.safetensors": Asset("torchvision VGG16", _converted(f"{_TORCH}/vgg16-397923af.pth")),
    "vgg19_uint8.npz": Asset(
        "Oxford VGG19 convolutions, 8-bit codes",
        "Keras' VGG19 without its top, quantised",
        "6f38637af5f1dd3b0672a145f470e184388ef0ca072c3428c924e0d82798a108",
    ),
    "dists_alpha_beta.safetensors": Asset(
        "DISTS' alpha and beta",
        _converted("https://github.com/dingkeyan93/DISTS DISTS_pytorch/weights.pt"),
        "50980d68bc38b2fcc738b1a8c3ae77a87cb73883b230951c2c57190855bdb52f",
    ),
    "niqe_params.npz": Asset(
        "NIQE's pristine statistics",
        "https://github.com/XPixelGroup/BasicSR basicsr/metrics/niqe_pris_params.npz",
        "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
    ),
    "niqe_matlab_params.mat": Asset(
        "pristine statistics of MATLAB's built-in niqe",
        "https://huggingface.co/chaofengc/IQA-PyTorch-Weights niqe_matlab_params.mat",
    ),
    "ma.safetensors": Asset(
        "forests of Ma's no-reference metric",
        _converted("https://github.com/chaoma99/sr-metric model.mat"),
    ),
    "inception_fid.safetensors": Asset(
        "Inception-v3 of 2015-12-05 for FID",
        _converted(
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth"
        ),
    ),
    "resnet50.safetensors": Asset(
        "torchvision ResNet-50 (IMAGENET1K_V1)", _converted(f"{_TORCH}/resnet50-0676ba61.pth")
    ),
    "clip_rn50.safetensors": Asset(
        "OpenAI CLIP ResNet-50",
        _converted(
            "https://openaipublic.azureedge.net/clip/models/"
            "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt"
        ),
    ),
    "koniq_ckpt.npz": Asset(
        "MUSIQ's official checkpoint for KonIQ",
        "https://storage.googleapis.com/gresearch/musiq/koniq_ckpt.npz",
    ),
}


def cache_dir() -> Path:
    """Returns the user's cache folder for this project, which need not exist."""
    # XDG's specification: an empty variable counts as unset.
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "maskgit_sr"


def search_path() -> list[Path]:
    """Returns the folders that `find` searches without an explicit path, in this order."""
    folders = []
    if env := os.environ.get(ENV):
        folders.append(Path(env).expanduser())
    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").exists() or (root / ".git").exists():  # not in site-packages
        folders.append(root.parent / "shared" / "metrics")
    folders.append(cache_dir())
    # `find` lists the folders in its message, where one that is named twice would stand twice.
    unique: dict[Path, Path] = {}
    for folder in folders:
        unique.setdefault(folder.resolve(), folder)
    return list(unique.values())


def find(name: str, explicit: str | Path | None = None) -> Path:
    """Returns the path of the asset file called `name`.

    Args:
        name: a file name, usually one of `KNOWN`.
        explicit: the file itself or a folder that holds it; nothing else is tried when it is given.

    Raises:
        UserError: the file is not there; the one-line message says where to get and to put it.
    """
    what = f" ({KNOWN[name].what}, from {KNOWN[name].source})" if name in KNOWN else ""
    if explicit is not None:
        path = Path(explicit).expanduser()
        path = path / name if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"{path}: no such file (expected {name}{what})")
        return path
    folders = search_path()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"asset {name} not found in {', '.join(map(str, folders))}: put it in {cache_dir()}, or "
        f"set {ENV} to the folder that holds it{what}"
    )


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
