"""Bundles in repositories of the Hugging Face hub: hf://OWNER/NAME[@REVISION][/FILE.safetensors]."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from maskgit_sr.errors import UserError, cause

PREFIX = "hf://"
_ADDRESS = re.compile(r"hf://([^/@\s]+/[^/@\s]+)(?:@([^/\s]+))?(?:/(.+\.safetensors))?/?")
_SECONDS = 10.0  # for the list of a repository's files


class Address(NamedTuple):
    """A repository, its revision (None: the main one), a bundle's path (None: the only one)."""

    repository: str
    revision: str | None
    file: str | None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Returns the parts of an address.

        Raises:
            UserError: it is not of that form.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise UserError(
                "model: expected hf://OWNER/NAME, with @REVISION and /FILE.safetensors if need "
                f"be, found {text}"
            )
        return cls(*match.groups())


def download(text: str) -> Path:
    """Returns the bundle at an address, in the hub's own cache; fetched if it is not there yet.

    Without the network, what the cache has is used.

    Raises:
        UserError: a malformed address, no package `huggingface_hub`, no such repository, revision
            or file, several bundles to choose from, no access, or neither network nor cached file.
    """
    address = Address.parse(text)
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(f"{text}: needs huggingface_hub: pip install 'maskgit-sr[hub]'") from None
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        # Asked before the download, which without the network would try again for half a minute.
        files = _published(hub, address, endpoint)
        offline = files is None
        path = hub.hf_hub_download(
            address.repository,
            address.file or _only(text, _cached(hub, address) if files is None else files),
            revision=address.revision,
            endpoint=endpoint,
            local_files_only=offline,
        )
    except errors.GatedRepoError:
        raise UserError(f"{text}: accept its terms on the hub, and 'hf auth login'") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{text}: no such repository, or no access ('hf auth login')") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{text}: no such revision: {address.revision}") from None
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"{text}: the hub is out of reach, and its cache has no such file"
        ) from None
    except errors.EntryNotFoundError:
        raise UserError(f"{text}: no such file in the repository") from None
    except errors.HFValidationError as error:
        raise UserError(f"{text}: {cause(error)}") from None
    except UserError:
        raise
    except Exception as error:  # of the HTTP client, as below
        raise UserError(f"{text}: cannot be fetched ({cause(error)})") from error
    return Path(path)


def _published(hub: Any, address: Address, endpoint: str | None) -> list[str] | None:
    """Returns the paths of a repository's files; None if the hub is out of reach."""
    try:
        api = hub.HfApi(endpoint=endpoint)
        info = api.model_info(address.repository, revision=address.revision, timeout=_SECONDS)
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError):
        raise
    except Exception:  # of the HTTP client, which is another one in each major version
        return None
    return [sibling.rfilename for sibling in info.siblings or ()]


def _only(text: str, files: list[str]) -> str:
    bundles = sorted(file for file in files if file.endswith(".safetensors"))
    if len(bundles) == 1:
        return bundles[0]
    found = f"name one of {', '.join(bundles)}" if bundles else "found none"
    raise UserError(f"{text}: expected one .safetensors file in the repository: {found}")


def _cached(hub: Any, address: Address) -> list[str]:
    """Returns the paths of the files that the hub's cache has of a repository and revision.

    Raises:
        LocalEntryNotFoundError: it has none.
    """
    try:
        repositories = hub.scan_cache_dir().repos
    except hub.errors.CacheNotFound:
        repositories = frozenset()
    wanted = address.revision or "main"
    found = [
        file.file_path.relative_to(revision.snapshot_path).as_posix()
        for repository in repositories
        if (repository.repo_id, repository.repo_type) == (address.repository, "model")
        for revision in repository.revisions
        if wanted in revision.refs or revision.commit_hash == wanted
        for file in revision.files
    ]
    if not found:
        raise hub.errors.LocalEntryNotFoundError("nothing of this repository")
    return found
