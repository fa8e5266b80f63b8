"""Caches as the hub's client makes them, built by hand and in milliseconds."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

MARKER = ".huggingface-shared-blobs"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def commit_of(text: str) -> str:
    """Return a commit hash that stands for a short text."""
    return hashlib.sha1(text.encode()).hexdigest()


def folder_name(repo_id: str, kind: str = "model") -> str:
    return f"{kind}s--{repo_id.replace('/', '--')}"


def link(path: Path, target: Path) -> None:
    """Make a relative link as the client does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(path):
        path.symlink_to(os.path.relpath(target, path.parent))


def add_revision(
    root: Path,
    repo_id: str,
    commit: str,
    files: Mapping[str, bytes],
    *,
    ref: str | None = None,
    kind: str = "model",
    age: float = 0.0,
    shared: bool = False,
) -> Path:
    """Add a revision as a download would, and return its snapshot.

    Args:
        age: Seconds by which its new contents are older than now.
        shared: Keep contents in the cache's shared store.
    """
    folder = root / folder_name(repo_id, kind)
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        is_large = not name.endswith((".json", ".txt"))
        blob = folder / "blobs" / (sha256(content) if is_large else git_sha1(content))
        if not os.path.lexists(blob):
            if shared and is_large:
                payload = put_payload(root, content)
                manifest = payload.with_name(f"{payload.name}.refs")
                with manifest.open("a") as file:
                    file.write(f"{blob.relative_to(root).as_posix()}\n")
                link(blob, payload)
                make_old(payload, age)
            else:
                blob.write_bytes(content)
                make_old(blob, age)
        link(snapshot / name, blob)
    if ref is not None:
        path = folder / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
    make_old(snapshot, age)
    return snapshot


def put_payload(root: Path, content: bytes) -> Path:
    """Put a content into the shared store under the hash that the store would use."""
    store = root / "blobs"
    store.mkdir(parents=True, exist_ok=True)
    (store / MARKER).write_text("1\n")
    name = hashlib.sha256(b"xet" + content).hexdigest()
    path = store / name[:2] / name
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_bytes(content)
    return path


def make_old(path: Path, age: float) -> None:
    if age:
        when = time.time() - age  # a test may have its own idea of now
        os.utime(path, (when, when))


def listing(root: Path) -> dict[str, str]:
    """Return everything below a folder: its path and what it is, contents as checksums."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(folder) / name
            shown = path.relative_to(root).as_posix()
            if path.is_symlink():
                found[shown] = f"-> {os.readlink(path)}"
            elif path.is_file():
                found[shown] = sha256(path.read_bytes())
    return found
