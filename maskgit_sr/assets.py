"""Where perceptual networks and image-quality statistics are found.

These files are other people's work and are never committed here. They are looked for at an
explicit path, in the folder named by `MASKGIT_SR_ASSETS`, in `../shared/metrics` beside a source
checkout, and in the user's cache, in this order.
"""

import os
from pathlib import Path

from maskgit_sr.errors import UserError

ENV = "MASKGIT_SR_ASSETS"

KNOWN = {
    "lpips_alex.safetensors": "torchvision AlexNet + LPIPS v0.1 linear layers",
    "lpips_squeeze.safetensors": "torchvision SqueezeNet 1.1 + LPIPS v0.1 linear layers",
    "vgg19_uint8.npz": "Oxford VGG19 convolutions, 8-bit codes",
    "niqe_params.npz": "NIQE's pristine statistics",
    "dists_alpha_beta.safetensors": "DISTS' alpha and beta",
}


def cache_dir() -> Path:
    """The user's cache folder for this project; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "maskgit_sr"


def search_path() -> list[Path]:
    """The folders that `find` looks in when no explicit path is given, first one first."""
    folders = []
    if env := os.environ.get(ENV):
        folders.append(Path(env).expanduser())
    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").exists() or (root / ".git").exists():  # not in site-packages
        folders.append(root.parent / "shared" / "metrics")
    folders.append(cache_dir())
    return folders


def find(name: str, explicit: str | Path | None = None) -> Path:
    """The path of the asset file called `name`.

    Args:
        name: a file name, usually one of `KNOWN`.
        explicit: the file itself or a folder that holds it; nothing else is tried when it is given.

    Raises:
        UserError: the file is not there; the one-line message says where to put it.
    """
    if explicit is not None:
        path = Path(explicit).expanduser()
        path = path / name if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"{path}: no such file (expected {name})")
        return path
    folders = search_path()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    what = f" ({KNOWN[name]})" if name in KNOWN else ""
    raise UserError(
        f"asset {name}{what} not found: put it in {cache_dir()}, or set {ENV} to the folder that "
        f"holds it (looked in {', '.join(map(str, folders))})"
    )
