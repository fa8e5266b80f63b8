"""Write blobs that come back from the trash into the manifests of the shared store again.

They are the client's way to know which repositories link to a content; one that it does not find
there it collects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from loba_tui.core.associate.caches.hub.layout import STORE, parse_folder
from loba_tui.core.associate.caches.hub.paths import client_lock, exists, parent_of
from loba_tui.core.associate.caches.hub.store import payload_of_link, read_references
from loba_tui.core.errors import InUseError, RefusedError


def register(root_path: Path, root: int, path: str) -> list[str]:
    """Write the blobs at or below a path that came back into the manifests of what they link to.

    Returns:
        The blobs whose content is gone.
    """
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
    """Return every blob of the cache that links to a payload."""
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
