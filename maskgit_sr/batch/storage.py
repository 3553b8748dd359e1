"""Files at the addresses that Beam's file systems know; a name is never read as a pattern.

Beam lists and deletes by patterns only, and has no way to quote a bracket: "out [x]/**" lists the
folder "out x". So what it lists is compared with what was asked for, letter by letter.
"""

from __future__ import annotations

import contextlib
import mimetypes
import os
import re
import secrets
from pathlib import Path
from typing import Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystem import FileSystem as _FileSystem
from apache_beam.io.filesystems import FileSystems

from maskgit_sr import paths
from maskgit_sr.errors import UserError
from maskgit_sr.images.bounds import MAX_BYTES

_MAGIC = re.compile(r"[*?[]")


def has_magic(text: str) -> bool:
    """Returns True if Beam would read an address as a pattern."""
    return _MAGIC.search(text) is not None


def matches(address: str, pattern: str) -> bool:
    """Returns True if a pattern of Beam's, whose `**` takes in slashes, matches an address."""
    return re.fullmatch(_FileSystem.translate_pattern(pattern), address) is not None


def below(prefix: str) -> set[str]:
    """Returns the addresses of all files that begin with `prefix`, on this machine a folder.

    Raises:
        UserError: the file system is unknown or does not respond.
    """
    if not paths.is_remote(prefix):
        return {os.path.join(base, name) for base, _, names in os.walk(prefix) for name in names}
    found = _listed(f"{_MAGIC.sub('?', prefix)}**", prefix)
    return {address for address in found if address.startswith(prefix)}


def exists(address: str) -> bool:
    """Returns True if there is a file, or on this machine also a folder or a link."""
    if not paths.is_remote(address):
        return os.path.lexists(address)
    with _saying(address):
        return bool(FileSystems.exists(address))


def delete(address: str) -> None:
    """Deletes a file, and no other; Beam cannot delete one whose name is a pattern: it is emptied.

    Raises:
        UserError: the file system does not respond.
    """
    if not paths.is_remote(address):
        with paths.naming(address):
            Path(address).unlink(missing_ok=True)
    elif not has_magic(address):
        with _saying(address):
            FileSystems.delete([address])
    else:
        _create(address, b"")


def read(address: str) -> bytes:
    """Returns the bytes of a file.

    Raises:
        UserError: it cannot be read, or is larger than an image can be.
    """
    try:
        # the default would decompress by the name's suffix
        with FileSystems.open(address, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            data: bytes = file.read(MAX_BYTES + 1)
    except MemoryError:
        raise
    except Exception as error:  # every file system has exceptions of its own
        raise UserError(f"cannot be read ({reason(error)})") from error
    if len(data) > MAX_BYTES:
        raise UserError(f"more than {MAX_BYTES:,} bytes")
    return data


def write(address: str, data: bytes) -> None:
    """Writes a file that appears whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    folder, _, name = address.rpartition("/")
    # a name of its own for every attempt: an engine may run two at once
    part = f"{folder}/.{name[:40]}.{secrets.token_hex(4)}.part"
    try:
        try:
            _create(part, data, mimetypes.guess_type(address)[0])
            FileSystems.rename([part], [address])
        except BaseException:  # an interrupt must not leave the part either
            with contextlib.suppress(UserError):  # which must not hide the error that led here
                if exists(part):
                    delete(part)
            raise
    except Exception as error:  # as in `read`
        raise UserError(f"cannot be written ({reason(error)})") from error


def check_name(address: str) -> None:
    """Raises the UserError of `write` for a name that no file of this machine can have."""
    if not paths.is_remote(address):
        try:
            with contextlib.suppress(FileNotFoundError):
                os.lstat(address)
        except OSError as error:
            raise UserError(f"cannot be written ({reason(error)})") from error


def _create(address: str, data: bytes, kind: str | None = None) -> None:
    kind = kind or "application/octet-stream"
    with FileSystems.create(address, kind, CompressionTypes.UNCOMPRESSED) as file:
        file.write(data)


def _listed(pattern: str, address: str) -> set[str]:
    with _saying(address):
        [found] = FileSystems.match([pattern])
    return {entry.path for entry in found.metadata_list}


@contextlib.contextmanager
def _saying(address: str) -> Any:
    try:
        yield
    except ValueError as error:  # of Beam, for an address that none of its file systems knows
        scheme = address.partition("://")[0]
        raise UserError(
            f"{address}: no file system for {scheme}:// here (gs:// needs "
            "pip install 'maskgit-sr[beam]')"
        ) from error
    except BeamIOError as error:
        raise UserError(f"{address}: cannot be listed ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """Returns the reason of an error in one line, without Beam's wrapping."""
    details: Any = getattr(error, "exception_details", None)
    if isinstance(details, dict) and details:
        return reason(next(iter(details.values())))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if len(error.args) == 1 and isinstance(error.args[0], OSError):  # Beam's local file system
        return reason(error.args[0])
    return " ".join(str(error).split()) or type(error).__name__
