"""Lookup and download of the files of perceptual networks and image-quality statistics.

These files are other people's work and are never committed here. They are searched for at an
explicit path, in the folder named by `MASKGIT_SR_ASSETS`, in `../shared/metrics` beside a source
checkout, and in the user's cache, in this order; `get` downloads them there.
"""

import hashlib
import http.client
import json
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskgit_sr import paths
from maskgit_sr.errors import UserError, cause

ENV = "MASKGIT_SR_ASSETS"
DEFAULT = ("lpips_alex.safetensors", "niqe_params.npz")
"""What most scores need."""
DIGESTS = "digests.json"
"""Name of the file in the cache folder with the SHA-256 of every file that `get` has fetched."""
_CHUNK = 1 << 20
_SECONDS = 30.0  # without any answer

Convert = Callable[[Sequence[Path], Path], Any]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """A file at its publisher.

    Attributes:
        url: its address.
        sha256: its digest, or the first digits of it, as the names of PyTorch's files carry them;
            "": not known, so that the one found at the first download counts.
    """

    url: str
    sha256: str = ""

    @property
    def name(self) -> str:
        """Returns the file's name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Asset:
    """A file published by others.

    Attributes:
        what: contents, as messages name them.
        use: what needs it.
        licence: of the publisher's files, as the publisher states it.
        sources: files that it is, or is made of; none: it cannot be downloaded.
        sha256: digest of the file that scores were verified with; None where it was not at hand.
        converted: it is made of the sources by `maskgit_sr.convert.networks`.
        origin: where it comes from, if there is no source.
    """

    what: str
    use: str
    licence: str
    sources: tuple[Source, ...] = ()
    sha256: str | None = None
    converted: bool = True
    origin: str = ""

    @property
    def source(self) -> str:
        """Returns the addresses, and the conversion if our file has another format, as a line."""
        addresses = " and ".join(source.url for source in self.sources) or self.origin
        by = ", converted by python -m maskgit_sr.convert.networks"
        return addresses + (by if self.converted else "")


_TORCH, _LPIPS = "https://download.pytorch.org/models", "https://github.com/richzhang"
_LPIPS += "/PerceptualSimilarity/raw/HEAD/lpips/weights/v0.1"
_VISION = "BSD-3-Clause"

KNOWN = {
    "lpips_alex.safetensors": Asset(
        "torchvision AlexNet + LPIPS v0.1 linear layers",
        "lpips_alex, diversity, validation while training",
        f"{_VISION}, BSD-2-Clause",
        (
            Source(f"{_TORCH}/alexnet-owt-7be5be79.pth", "7be5be79"),
            Source(
                f"{_LPIPS}/alex.pth",
                "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
            ),
        ),
        "137fae61e223a0ffeb6b56e2ef8c925a36a106ef8b15d24a234071617b3ed744",
    ),
    "lpips_squeeze.safetensors": Asset(
        "torchvision SqueezeNet 1.1 + LPIPS v0.1 linear layers",
        "lpips_squeeze, training of small networks",
        f"{_VISION}, BSD-2-Clause",
        (
            Source(f"{_TORCH}/squeezenet1_1-b8a52dc0.pth", "b8a52dc0"),
            Source(
                f"{_LPIPS}/squeeze.pth",
                "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
            ),
        ),
        "6090f8f626c2d780c19fce5d7e96f016580516a7831b4e1634cfa1afa4e12240",
    ),
    "lpips_vgg.safetensors": Asset(
        "LPIPS v0.1 linear layers for VGG16",
        "lpips_vgg, training of ITER",
        "BSD-2-Clause",
        (
            Source(
                f"{_LPIPS}/vgg.pth",
                "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
            ),
        ),
    ),
    "vgg16.safetensors": Asset(
        "torchvision VGG16",
        "lpips_vgg, dists, training of ITER",
        _VISION,
        (Source(f"{_TORCH}/vgg16-397923af.pth", "397923af"),),
    ),
    "vgg19_uint8.npz": Asset(
        "Oxford VGG19 convolutions, 8-bit codes",
        "training of realsrt-base",
        "CC BY 4.0",
        (),
        "6f38637af5f1dd3b0672a145f470e184388ef0ca072c3428c924e0d82798a108",
        converted=False,
        origin="Keras' VGG19 without its top, quantised",
    ),
    "dists_alpha_beta.safetensors": Asset(
        "DISTS' alpha and beta",
        "dists",
        "MIT",
        (
            Source(
                "https://github.com/dingkeyan93/DISTS/raw/HEAD/DISTS_pytorch/weights.pt",
                "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
            ),
        ),
        "50980d68bc38b2fcc738b1a8c3ae77a87cb73883b230951c2c57190855bdb52f",
    ),
    "niqe_params.npz": Asset(
        "NIQE's pristine statistics",
        "niqe, niqe_y, pi",
        "Apache-2.0",
        (
            Source(
                "https://github.com/XPixelGroup/BasicSR/raw/HEAD/basicsr/metrics/"
                "niqe_pris_params.npz",
                "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
            ),
        ),
        "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
        converted=False,
    ),
    "niqe_matlab_params.mat": Asset(
        "pristine statistics of MATLAB's built-in niqe",
        "niqe_matlab",
        "see its page",
        (
            Source(
                "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/"
                "niqe_matlab_params.mat"
            ),
        ),
        converted=False,
    ),
    "ma.safetensors": Asset(
        "forests of Ma's no-reference metric",
        "ma, pi",
        "see its page",
        (Source("https://github.com/chaoma99/sr-metric/raw/HEAD/model.mat"),),
    ),
    "inception_fid.safetensors": Asset(
        "Inception-v3 of 2015-12-05 for FID",
        "fid, is",
        "Apache-2.0",
        (
            Source(
                "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                "pt_inception-2015-12-05-6726825d.pth",
                "6726825d",
            ),
        ),
    ),
    "resnet50.safetensors": Asset(
        "torchvision ResNet-50 (IMAGENET1K_V1)",
        "classify",
        _VISION,
        (Source(f"{_TORCH}/resnet50-0676ba61.pth", "0676ba61"),),
    ),
    "clip_rn50.safetensors": Asset(
        "OpenAI CLIP ResNet-50",
        "clipiqa, clipiqa_pyiqa",
        "MIT",
        (
            Source(
                "https://openaipublic.azureedge.net/clip/models/"
                "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
                "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
            ),
        ),
    ),
    "koniq_ckpt.npz": Asset(
        "MUSIQ's official checkpoint for KonIQ",
        "musiq",
        "Apache-2.0",
        (Source("https://storage.googleapis.com/gresearch/musiq/koniq_ckpt.npz"),),
        converted=False,
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
    if found := located(name):
        return found
    raise UserError(
        f"asset {name} not found in {', '.join(map(str, folders))}: 'maskgit-sr assets get "
        f"{name}', or set {ENV} to the folder that holds it{what}"
    )


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def located(name: str) -> Path | None:
    """Returns the path of a file in the folders that are searched; None if it is in none."""
    found = (folder / name for folder in search_path())
    return next((path for path in found if path.is_file()), None)


def get(
    name: str, convert: Convert, progress: Progress = lambda name, done, total: None
) -> tuple[Path, bool]:
    """Downloads an asset to the user's cache, unless it is there already.

    Publishers' files that lie in the folders that are searched are taken instead of downloads.

    Args:
        name: key of `KNOWN`.
        convert: makes the file of its sources: (sources, target).
        progress: called with a file's name, and its bytes so far and in all (0: not known).

    Returns:
        The path, and True if it was made now.

    Raises:
        UserError: an unknown name, a file that cannot be downloaded, is cut off or another one
            than is pinned or was recorded, or one that cannot be written. Nothing new is left.
    """
    if name not in KNOWN:
        raise UserError(f"assets: expected one of {', '.join(KNOWN)}, found {name!r}")
    asset, recorded = KNOWN[name], _recorded()
    wanted = asset.sha256 or recorded.get(name, "")
    if found := located(name):
        _check(found, digest(found), wanted, "delete it, and get it again")
        return found, False
    if not asset.sources:
        raise UserError(f"{name}: nobody offers it for download (it is {asset.origin})")
    folder = cache_dir()
    with paths.naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".assets-") as part:
        files = []
        for source in asset.sources:
            file = located(source.name) or _download(source, name, Path(part), progress)
            expected = source.sha256 or recorded.get(source.url, "")
            recorded[source.url] = _check(file, digest(file), expected, source.url)
            files.append(file)
        made = Path(part, f"made-{name}") if asset.converted else files[0]
        if asset.converted:
            convert(files, made)
        recorded[name] = _check(made, digest(made), wanted, asset.source)
        with paths.whole(folder / name) as target, paths.naming(folder / name):
            shutil.copyfile(made, target)
    paths.write(folder / DIGESTS, json.dumps(recorded, indent=2, sort_keys=True) + "\n")
    return folder / name, True


def _recorded() -> dict[str, str]:
    """Returns the digests of what was fetched before, by address and by name."""
    path = cache_dir() / DIGESTS
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        raise UserError(f"{path}: not JSON; delete it to record digests anew") from None
    return {str(name): str(value) for name, value in found.items()}


def _check(path: Path, found: str, expected: str, where: str) -> str:
    """Returns the digest found.

    Raises:
        UserError: it does not begin with the expected one.
    """
    if not found.startswith(expected):
        raise UserError(f"{path.name}: expected SHA-256 {expected}, found {found} ({where})")
    return found


def _download(source: Source, name: str, folder: Path, progress: Progress) -> Path:
    """Downloads a file whole.

    Raises:
        UserError: it is out of reach, cut off, or a page instead of a file.
    """

    def failed(reason: str) -> UserError:
        return UserError(
            f"{name}: {reason}: fetch {source.url} by other means and put it into {cache_dir()}"
        )

    path, done = folder / source.name, 0
    request = urllib.request.Request(source.url, headers={"User-Agent": "maskgit-sr"})
    try:
        response = urllib.request.urlopen(request, timeout=_SECONDS)
    except (OSError, http.client.HTTPException) as error:
        code, reason = getattr(error, "code", ""), getattr(error, "reason", error)
        getattr(error, "close", lambda: None)()  # an HTTP error holds the connection
        raise failed(f"cannot be downloaded ({' '.join(f'{code} {reason}'.split())})") from None
    total = int(response.headers.get("Content-Length") or 0)
    with response, paths.naming(path), path.open("wb") as file:
        if response.headers.get_content_type() == "text/html":
            raise failed("found a web page instead of the file")
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise failed(f"the download was cut off ({cause(error)})") from None
            if not chunk:
                break
            file.write(chunk)
            done += len(chunk)
            progress(source.name, done, total)
        if total and done != total:
            raise failed(f"the download was cut off ({done:,} of {total:,} bytes)")
    return path
