"""How huggingface_hub lays a cache out, and the plain records that a scan of one returns.

    models--org--name/blobs/<etag>                     the content, or a link into the shared store
                      snapshots/<commit>/<path>        links into blobs/
                      refs/<branch or tag>             a file that holds a commit
                      trees/ .no_exist/                listings by commit
    blobs/<2 hex>/<xet hash>                           the shared store, where it is marked as such

Nothing of it is trusted to be whole: what is broken or foreign is a `Problem`, never an exception.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space", "kernels": "kernel"}
STORE = "blobs"
STORE_MARKER = ".huggingface-shared-blobs"
STORE_LAYOUT = "1\n"
LOCKS = ".locks"
# In blobs/: what another host began to send (transfer.send); it goes when the last is complete.
INCOMING = ".loba-incoming"
# What belongs to the client or to a desktop and is no repository.
IGNORED = frozenset({LOCKS, "CACHEDIR.TAG", "version.txt", ".DS_Store", "Thumbs.db", "desktop.ini"})

COMMIT = re.compile(r"[0-9a-f]{40}")
PAYLOAD = re.compile(r"[0-9a-f]{64}")


class Problem(NamedTuple):
    """Something that is not as the client leaves it; `path` is relative to the cache."""

    path: str
    what: str


class CachedFile(NamedTuple):
    """A file of a revision; `blob` is None for one that lies in the snapshot itself."""

    path: str
    size: int
    blob: str | None
    problem: str | None = None


class Blob(NamedTuple):
    """A content; `payload` names the entry of the shared store where it really lies."""

    name: str
    size: int
    modified: float
    payload: str | None = None


@dataclass(frozen=True)
class Revision:
    """One commit of a repository, as far as it was fetched.

    Attributes:
        refs: Branches and tags that stand on it; empty means detached.
        is_readable: Whether all of its folders could be listed.
    """

    commit: str
    files: tuple[CachedFile, ...]
    refs: tuple[str, ...]
    modified: float
    is_readable: bool = True

    @cached_property
    def blobs(self) -> frozenset[str]:
        """Return the names of the blobs it links to, whether they exist or not."""
        return frozenset(file.blob for file in self.files if file.blob is not None)

    @cached_property
    def size(self) -> int:
        """Return its bytes, a content that stands under two names counted once."""
        seen: dict[str, int] = {}
        direct = 0
        for file in self.files:
            if file.blob is None:
                direct += file.size
            else:
                seen[file.blob] = file.size
        return direct + sum(seen.values())


@dataclass(frozen=True)
class Repository:
    """One repository of the cache.

    Attributes:
        folder: Its folder's name in the cache, models--org--name.
        extra: Relative paths of what the client keeps by commit beside the snapshots.
        modified: When the newest blob or revision was written.
    """

    folder: str
    kind: str
    id: str
    revisions: tuple[Revision, ...] = ()
    blobs: Mapping[str, Blob] = field(default_factory=dict)
    incomplete: tuple[Blob, ...] = ()
    refs: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    modified: float = 0.0

    @property
    def name(self) -> str:
        """Return what a user calls it: the id, with the kind in front where it is no model."""
        return self.id if self.kind == "model" else f"{self.kind}/{self.id}"

    @property
    def is_readable(self) -> bool:
        """Say whether it is known which blobs its revisions need."""
        return all(revision.is_readable for revision in self.revisions)

    @cached_property
    def referenced(self) -> frozenset[str]:
        """Return the names of all blobs that some revision links to."""
        return frozenset().union(*(revision.blobs for revision in self.revisions))

    @cached_property
    def unreferenced(self) -> tuple[Blob, ...]:
        """Return the blobs that no revision links to; none where a revision is unreadable."""
        if not self.is_readable:
            return ()
        return tuple(blob for name, blob in self.blobs.items() if name not in self.referenced)

    @cached_property
    def direct_size(self) -> int:
        """Return the bytes of files that lie in the snapshots themselves."""
        return sum(file.size for rev in self.revisions for file in rev.files if file.blob is None)

    @cached_property
    def size(self) -> int:
        """Return the bytes of its revisions, each blob counted once."""
        blobs = (blob.size for name, blob in self.blobs.items() if name in self.referenced)
        return self.direct_size + sum(blobs)

    @cached_property
    def logical_size(self) -> int:
        """Return the bytes that its revisions would take without sharing blobs."""
        return sum(revision.size for revision in self.revisions)

    @cached_property
    def own_size(self) -> int:
        """Return the bytes inside its folder: also leftovers, but nothing of the shared store."""
        blobs = (blob.size for blob in self.blobs.values() if blob.payload is None)
        return self.direct_size + sum(blobs) + sum(blob.size for blob in self.incomplete)

    def revision(self, commit: str) -> Revision | None:
        """Return the revision of a commit."""
        return next((rev for rev in self.revisions if rev.commit == commit), None)


@dataclass(frozen=True)
class Payload:
    """An entry of the shared store.

    Attributes:
        references: Relative paths of the blobs that link to it; None where they are not known for
            certain, and then it is never removed.
    """

    name: str
    size: int
    references: frozenset[str] | None
    modified: float = 0.0

    @property
    def path(self) -> str:
        """Return its path relative to the cache."""
        return f"{STORE}/{self.name[:2]}/{self.name}"


@dataclass(frozen=True)
class Cache:
    """Everything that a scan found."""

    repositories: tuple[Repository, ...]
    payloads: Mapping[str, Payload] = field(default_factory=dict)
    foreign: tuple[Problem, ...] = ()

    @cached_property
    def size(self) -> int:
        """Return the bytes on disk, each content counted once over all repositories."""
        stored = sum(payload.size for payload in self.payloads.values())
        return stored + sum(repository.own_size for repository in self.repositories)

    @cached_property
    def logical_size(self) -> int:
        """Return the bytes that all revisions would take if nothing were shared."""
        return sum(repository.logical_size for repository in self.repositories)

    def repository(self, folder: str) -> Repository | None:
        """Return the repository of a folder name."""
        return next((repo for repo in self.repositories if repo.folder == folder), None)


def parse_folder(folder: str) -> tuple[str, str] | None:
    """Return kind and id of a repository's folder, None for a folder that is none."""
    prefix, _, rest = folder.partition("--")
    if prefix not in KINDS or not rest:
        return None
    return KINDS[prefix], rest.replace("--", "/")


def folder_of(name: str) -> str:
    """Return the folder of `org/name`, `model/org/name` or `dataset/org/name`."""
    for prefix, kind in KINDS.items():
        if name.startswith(f"{kind}/") and name.count("/") >= (2 if kind == "model" else 1):
            return f"{prefix}--{name.removeprefix(f'{kind}/').replace('/', '--')}"
    return f"models--{name.replace('/', '--')}"
