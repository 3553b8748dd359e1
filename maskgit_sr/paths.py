"""Local paths and paths in buckets (gs://, s3://, whatever etils.epath supports)."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from maskgit_sr.errors import UserError

PathLike = str | os.PathLike[str]


def is_remote(path: PathLike) -> bool:
    """Returns True for a path in a bucket."""
    return "://" in os.fspath(path)


def check_local(path: PathLike) -> None:
    """Raises UserError for the address of an image, which has to be a file on this machine."""
    if is_remote(path):
        found = os.fspath(path)
        raise UserError(f"image: expected a file on this machine, found the address {found}")


def absolute(path: PathLike) -> epath.Path:
    """Returns the absolute path, as Orbax requires it; `~` is the home folder."""
    found = epath.Path(path)
    return found if is_remote(path) else found.expanduser().absolute()


@contextlib.contextmanager
def local(path: PathLike) -> Iterator[Path]:
    """Yields the file itself, or a copy of a remote one that lasts as long as the block.

    Raises:
        FileNotFoundError: there is no such remote file.
    """
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / epath.Path(path).name
        epath.Path(path).copy(copy)
        yield copy


@contextlib.contextmanager
def whole(target: PathLike) -> Iterator[Path]:
    """Yields a path on this machine; what the block writes there becomes `target`.

    The block writes a file, or makes a folder. `target` appears whole when the block ends and not
    at all when it fails, and nothing else is left of it either way. Missing parent folders are
    made. The path is hidden, lies beside `target` and has its suffix, which some writers go by.
    What is meant for a bucket is uploaded from a temporary folder: object by object, so that of a
    folder only the objects are whole.

    Raises:
        UserError: `target` cannot be written. Exceptions of the block pass through unchanged; wrap
            those that are about `target` by `naming`.
    """
    name = epath.Path(target).name
    if is_remote(target):
        # No rename: an object appears in a bucket only when its upload is complete.
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / name
            yield part
            with naming(target):
                _upload(part, epath.Path(target))
        return
    path = Path(target)
    # Beside the target, because os.replace is atomic within one file system only; with a random
    # part, because two processes may write the same file. At four bytes a character, 40 of the
    # stem and 20 of the suffix make 255 bytes with the rest, the limit of file systems.
    part = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}.part{path.suffix[:20]}")
    with naming(target):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        with naming(target):
            os.replace(part, path)
    finally:
        _remove(part)


def write(target: PathLike, data: bytes | str) -> None:
    """Writes a file by `whole`; text as UTF-8, surrogate escapes of file names as their bytes.

    Raises:
        UserError: it cannot be written.
    """
    blob = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    with whole(target) as part, naming(target):
        part.write_bytes(blob)


@contextlib.contextmanager
def naming(target: PathLike) -> Iterator[None]:
    """Turns an OSError of the block into a UserError that names `target`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{os.fspath(target)}: cannot be written ({reason})") from error


def _upload(source: Path, target: epath.Path) -> None:
    if source.is_dir():
        for path in sorted(source.iterdir()):
            _upload(path, target / path.name)
    else:
        target.write_bytes(source.read_bytes())


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # an error here must not hide the one that led here
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
