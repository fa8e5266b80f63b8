"""The shared store of a cache: its contents, and the manifests that say which blobs link to each.

A content without a readable manifest may be in use by anybody, and is never removed. One that the
hub's client does not find in a manifest it collects, so what comes back from the trash is written
there again.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from loba_tui.core.associate.caches.hub.layout import (
    PAYLOAD,
    STORE,
    STORE_LAYOUT,
    STORE_MARKER,
    Payload,
    Repository,
    parse_folder,
)
from loba_tui.core.associate.caches.hub.paths import client_lock, entries_of, exists, parent_of
from loba_tui.core.errors import InUseError, RefusedError

_MAX_MANIFEST_BYTES = 16 * 2**20


def is_store(root: Path) -> bool:
    """Say whether the cache has a shared store of the layout that is known here."""
    marker = f"{os.fspath(root)}/{STORE}/{STORE_MARKER}"
    try:
        if not stat.S_ISDIR(os.lstat(f"{os.fspath(root)}/{STORE}").st_mode):
            return False
        with open(os.open(marker, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as file:
            return file.read(len(STORE_LAYOUT) + 1) == STORE_LAYOUT
    except (OSError, ValueError):
        return False


def scan_store(root: Path, repositories: tuple[Repository, ...]) -> Mapping[str, Payload]:
    """Return the entries of the shared store with the blobs that link to each."""
    if not is_store(root):
        return {}
    linked: dict[str, set[str]] = {}
    for repository in repositories:
        for blob in repository.blobs.values():
            if blob.payload is not None:
                path = f"{repository.folder}/blobs/{blob.name}"
                linked.setdefault(blob.payload, set()).add(path)
    found = {}
    base = f"{os.fspath(root)}/{STORE}"
    for prefix, entry in sorted(entries_of(base).items()):
        if len(prefix) != 2 or not entry.is_dir(follow_symlinks=False):
            continue
        for name, payload in entries_of(f"{base}/{prefix}").items():
            if not (PAYLOAD.fullmatch(name) and name.startswith(prefix)):
                continue
            try:
                facts = payload.stat(follow_symlinks=False)
            except OSError:  # gone since it was listed
                continue
            if stat.S_ISREG(facts.st_mode):
                references = read_references(root, name)
                if references is not None:
                    references |= linked.get(name, set())
                found[name] = Payload(name, facts.st_size, references, facts.st_mtime)
    return found


def read_references(root: Path, payload: str) -> frozenset[str] | None:
    """Return the blobs that the store's manifest of a payload names and that do link to it.

    None means that it cannot be told, so the payload may be in use.
    """
    try:
        manifest = os.open(
            f"{os.fspath(root)}/{STORE}/{payload[:2]}/{payload}.refs", os.O_RDONLY | os.O_NOFOLLOW
        )
        with open(manifest, encoding="utf-8") as file:
            text = file.read(_MAX_MANIFEST_BYTES + 1)
    except (OSError, ValueError):
        return None
    if len(text) > _MAX_MANIFEST_BYTES:
        return None
    valid = set()
    for line in text.splitlines():
        parts = line.split("/")
        is_blob = len(parts) == 3 and parts[1] == "blobs" and parse_folder(parts[0]) is not None
        if not is_blob or parts[2] in ("", ".", ".."):
            continue
        try:
            target = os.readlink(f"{os.fspath(root)}/{line}")
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.EINVAL:  # a file of its own, not a link
                continue
            return None
        if payload_of_link(root, line, target) == payload:
            valid.add(line)
    return frozenset(valid)


def payload_of_link(root: Path, path: str, target: str) -> str | None:
    """Return the payload that the link at `path` means by its text, None for one elsewhere."""
    stored = inside(root, path, target)
    return payload_at(stored) if stored is not None else None


def payload_at(path: str) -> str | None:
    """Return the payload that lies at a path, None where the path is not one's."""
    parts = path.split("/")
    is_payload = len(parts) == 3 and parts[0] == STORE and PAYLOAD.fullmatch(parts[2])
    return parts[2] if is_payload and parts[1] == parts[2][:2] else None


def is_used(root: Path, payload: str) -> bool:
    """Say whether some blob links to a payload, or may; asked with the payload's lock held."""
    references = read_references(root, payload)
    return references is None or bool(references)


def inside(root: Path, path: str, target: str) -> str | None:
    """Return where a link leads, relative to the cache, by its text alone; None is outside."""
    if target.startswith("/"):
        base = os.fspath(root).rstrip("/") + "/"
        resolved = posixpath.normpath(target)
        return resolved.removeprefix(base) if resolved.startswith(base) else None
    resolved = posixpath.normpath(f"{posixpath.dirname(path)}/{target}")
    return None if resolved.startswith("..") else resolved


def register(root_path: Path, root: int, path: str) -> list[str]:
    """Enter blobs that came back at or below a path in manifests; return those without content."""
    missing = []
    for blob in _blobs_below(root, path):
        try:
            with parent_of(root, blob) as (parent, name):
                target = os.readlink(name, dir_fd=parent)
        except (OSError, RefusedError):  # a content of its own, or not there
            continue
        payload = payload_of_link(root_path, blob, target)
        if payload is None:
            continue
        stored = f"{STORE}/{payload[:2]}/{payload}"
        try:
            with parent_of(root, stored) as (store, entry):
                is_there = exists(store, entry)
        except (FileNotFoundError, RefusedError):
            is_there = False
        if is_there:
            _append(root_path, root, stored, blob)
        else:
            missing.append(blob)
    return missing


def _blobs_below(root: int, path: str) -> Iterator[str]:
    parts = path.split("/")
    if parse_folder(parts[0]) is None:
        return
    if len(parts) == 3 and parts[1] == "blobs":
        yield path
    elif len(parts) == 1:
        try:
            with parent_of(root, f"{path}/blobs/x") as (folder, _):
                names = os.listdir(folder)
        except (FileNotFoundError, RefusedError):
            return
        yield from (f"{path}/blobs/{name}" for name in sorted(names))


def _append(root_path: Path, root: int, stored: str, blob: str) -> None:
    payload = stored.rpartition("/")[2]
    try:
        with client_lock(root, stored), parent_of(root, stored) as (store, _):
            known = read_references(root_path, payload)
            if known is not None and blob in known:
                return
            name = f"{payload}.refs"
            if known is None and exists(store, name):
                return  # unreadable, and so nothing is ever collected
            # A new manifest must name every link there is, or the client collects what it lacks.
            lines = [blob] if known is not None else _links_to(root_path, payload)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            manifest = os.open(name, flags, 0o666, dir_fd=store)
            try:
                text = "".join(f"{line}\n" for line in lines)
                os.write(manifest, text.encode("utf-8", "surrogateescape"))
                os.fsync(manifest)
            finally:
                os.close(manifest)
    except (InUseError, FileNotFoundError):
        # The client works on it at this moment and reads links as well as manifests.
        return


def _links_to(root: Path, payload: str) -> list[str]:
    found = []
    for folder in sorted(os.listdir(root)):
        if parse_folder(folder) is None or not os.path.isdir(root / folder / "blobs"):
            continue
        for name in sorted(os.listdir(root / folder / "blobs")):
            blob = f"{folder}/blobs/{name}"
            try:
                target = os.readlink(root / blob)
            except OSError:
                continue
            if payload_of_link(root, blob, target) == payload:
                found.append(blob)
    return found
