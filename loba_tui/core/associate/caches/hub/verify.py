"""Check contents against their own names, without the network.

The client names a content by its checksum: sha256 for large files, git's blob sha1 for small ones.
A file that lies in a snapshot itself is checked against the listing that the client keeps.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any, Literal, NamedTuple

from loba_tui.core.associate.caches.hub.layout import STORE, CachedFile, Repository, Revision
from loba_tui.core.associate.caches.hub.paths import open_folder, parent_of
from loba_tui.core.errors import RefusedError
from loba_tui.core.foreign_json import parse_json

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
_MAX_LISTING_BYTES = 64 * 2**20

Verdict = Literal["good", "damaged", "missing", "unknown"]


class Checked(NamedTuple):
    """The verdict on one content, under the first name that it has in a revision."""

    repository: str
    path: str
    verdict: Verdict
    why: str
    size: int


def verify(root: Path, repository: Repository) -> Iterator[Checked]:
    """Check every content of a repository once, one at a time as they are read."""
    seen: set[str] = set()
    with open_folder(root) as descriptor:
        for revision in repository.revisions:
            listing: Mapping[str, Any] | None = None
            for file in revision.files:
                path = f"{revision.commit[:12]}/{file.path}"
                if file.blob is not None:
                    if file.blob in seen:
                        continue
                    seen.add(file.blob)
                    blob_path = _content_path(repository, file.blob)
                    verdict, why = _check(descriptor, blob_path, file.blob)
                elif file.problem is not None:
                    verdict, why = "unknown", file.problem
                else:
                    if listing is None:
                        listing = _listing(descriptor, repository, revision)
                    verdict, why = _check_direct(descriptor, repository, revision, file, listing)
                yield Checked(repository.name, path, verdict, why, file.size)


def _content_path(repository: Repository, blob: str) -> str:
    known = repository.blobs.get(blob)
    if known is not None and known.payload is not None:
        return f"{STORE}/{known.payload[:2]}/{known.payload}"
    return f"{repository.folder}/blobs/{blob}"


def _check(root: int, path: str, expected: str) -> tuple[Verdict, str]:
    is_sha256 = _SHA256.fullmatch(expected) is not None
    if not is_sha256 and not _GIT_SHA1.fullmatch(expected):
        return "unknown", "its name is not a checksum"
    try:
        with parent_of(root, path) as (folder, name):
            content = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return "missing", "its content is gone"
    except (OSError, RefusedError) as error:
        return "unknown", f"cannot be read: {getattr(error, 'strerror', None) or error}"
    with open(content, "rb", buffering=0) as file:
        facts = os.fstat(content)
        if not stat.S_ISREG(facts.st_mode):
            return "unknown", "not a file"
        try:
            found = _digest(file, facts.st_size, is_sha256=is_sha256)
        except OSError as error:
            return "damaged", f"cannot be read: {error.strerror or error}"
    if found == expected:
        return "good", ""
    return "damaged", f"its {'sha256' if is_sha256 else 'git sha1'} is {found[:12]}…"


def checksum_of(path: Path, expected: str) -> str | None:
    """Return a file's checksum, of the kind that is expected; None where that is none."""
    is_sha256 = _SHA256.fullmatch(expected) is not None
    if not is_sha256 and not _GIT_SHA1.fullmatch(expected):
        return None
    with path.open("rb", buffering=0) as file:
        return _digest(file, os.fstat(file.fileno()).st_size, is_sha256=is_sha256)


def _digest(file: RawIOBase, size: int, *, is_sha256: bool) -> str:
    if is_sha256:
        return hashlib.file_digest(file, "sha256").hexdigest()
    begun = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    return hashlib.file_digest(file, lambda: begun).hexdigest()


def _check_direct(
    root: int,
    repository: Repository,
    revision: Revision,
    file: CachedFile,
    listing: Mapping[str, Any],
) -> tuple[Verdict, str]:
    listed = listing.get(file.path)
    expected = None
    if isinstance(listed, dict):
        expected = listed.get("lfs_sha256") or listed.get("blob_id")
    if not isinstance(expected, str):
        return "unknown", "nothing says what its checksum should be"
    path = f"{repository.folder}/snapshots/{revision.commit}/{file.path}"
    return _check(root, path, expected)


def _listing(root: int, repository: Repository, revision: Revision) -> Mapping[str, Any]:
    """Return the client's listing of a revision by path, empty where there is none."""
    path = f"{repository.folder}/trees/{revision.commit}.json"
    try:
        with parent_of(root, path) as (folder, name):
            content = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        with open(content, "rb") as file:
            files = parse_json(file.read(_MAX_LISTING_BYTES))["files"]
    except (OSError, RefusedError, ValueError, KeyError, TypeError):
        return {}
    return files if isinstance(files, dict) else {}
