"""Read a hub cache, one repository at a time, without following a link out of it.

Only names, sizes and link texts are read: a content is never opened, a link never followed by the
file system. So a loop, a broken link or one that leads outside costs a `Problem` and nothing else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from loba_tui.core.associate.caches.hub.layout import (
    COMMIT,
    IGNORED,
    INCOMING,
    STORE,
    Blob,
    Cache,
    CachedFile,
    Problem,
    Repository,
    Revision,
    parse_folder,
)
from loba_tui.core.associate.caches.hub.store import (
    inside,
    is_store,
    payload_of_link,
    scan_store,
)

_MAX_REF_BYTES = 256


def scan(root: Path) -> Cache:
    """Return everything that lies in a cache; a folder that does not exist is an empty cache."""
    found = list(scan_repositories(root))
    repositories = tuple(item for item in found if isinstance(item, Repository))
    foreign = tuple(item for item in found if isinstance(item, Problem))
    return Cache(repositories, scan_store(root, repositories), foreign)


def scan_repositories(root: Path) -> Iterator[Repository | Problem]:
    """Yield the repositories in the order of their names, each as soon as it is read.

    What is no repository is yielded as a `Problem`.
    """
    base = os.fspath(root)
    has_store = is_store(root)
    for name, entry in sorted(_entries(base).items()):
        if name in IGNORED or (name == STORE and has_store):
            continue
        parsed = parse_folder(name)
        if entry.is_symlink():
            yield Problem(name, "a link; what it leads to is not part of this cache")
        elif parsed is None:
            yield Problem(name, "not of the hub's cache")
        elif not entry.is_dir(follow_symlinks=False):
            yield Problem(name, "a file where a repository's folder should be")
        else:
            yield scan_repository(root, name)


def scan_repository(root: Path, folder: str) -> Repository:
    """Return one repository; what is broken in it is listed in its problems."""
    kind, repo_id = parse_folder(folder) or ("model", folder)
    base = f"{os.fspath(root)}/{folder}"
    problems: list[Problem] = []
    parts = _entries(base, folder, problems)

    blobs, incomplete = _scan_blobs(root, folder, parts, problems)
    refs = _scan_refs(base, folder, parts, problems)
    refs_of: dict[str, list[str]] = {}
    for ref, commit in sorted(refs.items()):
        refs_of.setdefault(commit, []).append(ref)

    revisions = []
    for commit, entry in sorted(_subfolder(base, "snapshots", folder, parts, problems).items()):
        if entry.is_symlink() or not entry.is_dir(follow_symlinks=False):
            if commit not in IGNORED:
                problems.append(Problem(f"{folder}/snapshots/{commit}", "not a revision's folder"))
            continue
        files, is_readable = _scan_snapshot(base, folder, commit, blobs, problems)
        times = [blobs[file.blob].modified for file in files if file.blob in blobs]
        # A second revision of old contents is as young as its folder.
        modified = max([_modified(entry), *times])
        named = tuple(refs_of.pop(commit, ()))
        revisions.append(Revision(commit, tuple(files), named, modified, is_readable))
    for commit, lost in refs_of.items():
        what = f"names {commit[:12]}, which is not there"
        problems += [Problem(f"{folder}/refs/{ref}", what) for ref in lost]

    times = [blob.modified for blob in blobs.values()]
    times += [revision.modified for revision in revisions]
    return Repository(
        folder=folder,
        kind=kind,
        id=repo_id,
        revisions=tuple(revisions),
        blobs=blobs,
        incomplete=incomplete,
        refs=refs,
        extra=_scan_extra(base, parts),
        problems=tuple(problems),
        modified=max(times, default=0.0),
    )


def _scan_blobs(
    root: Path,
    folder: str,
    parts: Mapping[str, os.DirEntry[str]],
    problems: list[Problem],
) -> tuple[dict[str, Blob], tuple[Blob, ...]]:
    blobs: dict[str, Blob] = {}
    incomplete = []
    base = f"{os.fspath(root)}/{folder}"
    for name, entry in _subfolder(base, "blobs", folder, parts, problems).items():
        path = f"{folder}/blobs/{name}"
        try:
            facts = entry.stat(follow_symlinks=False)
            target = os.readlink(entry.path) if stat.S_ISLNK(facts.st_mode) else ""
        except OSError:  # gone since it was listed
            continue
        if stat.S_ISREG(facts.st_mode):
            blob = Blob(name, facts.st_size, facts.st_mtime)
            if name.endswith(".incomplete") or name.startswith((".", "tmp_")):
                incomplete.append(blob)
            else:
                blobs[name] = blob
        elif stat.S_ISLNK(facts.st_mode):
            payload = payload_of_link(root, path, target)
            if payload is None:
                problems.append(Problem(path, "a link out of the cache; it is not followed"))
                continue
            try:
                stored = os.lstat(f"{os.fspath(root)}/{STORE}/{payload[:2]}/{payload}")
            except OSError:
                problems.append(Problem(path, "a broken link into the shared store"))
                continue
            blobs[name] = Blob(name, stored.st_size, stored.st_mtime, payload)
        elif name == INCOMING and stat.S_ISDIR(facts.st_mode):
            incomplete += _scan_incoming(entry.path)
        else:
            problems.append(Problem(path, "neither a file nor a link"))
    return blobs, tuple(incomplete)


def _scan_incoming(path: str) -> Iterator[Blob]:
    """Yield what another host began to send."""
    for name, entry in _entries(path).items():
        with suppress(OSError):  # gone since it was listed
            facts = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(facts.st_mode):
                yield Blob(f"{INCOMING}/{name}", facts.st_size, facts.st_mtime)


def _scan_refs(
    base: str,
    folder: str,
    parts: Mapping[str, os.DirEntry[str]],
    problems: list[Problem],
) -> dict[str, str]:
    refs: dict[str, str] = {}
    if "refs" not in parts:
        return refs
    for name, entry in _walk(f"{base}/refs", f"{folder}/refs", problems):
        path = f"{folder}/refs/{name}"
        if not entry.is_file(follow_symlinks=False):
            problems.append(Problem(path, "not a file"))
            continue
        if entry.name in IGNORED:
            continue
        try:
            with open(entry.path, "rb") as file:
                commit = file.read(_MAX_REF_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            commit = ""
        if COMMIT.fullmatch(commit):
            refs[name] = commit
        else:
            problems.append(Problem(path, "does not hold a commit"))
    return refs


def _scan_snapshot(
    base: str,
    folder: str,
    commit: str,
    blobs: Mapping[str, Blob],
    problems: list[Problem],
) -> tuple[list[CachedFile], bool]:
    """Return the files of a revision, and whether all of its folders could be read."""
    files = []
    before = len(problems)
    top = f"{folder}/snapshots/{commit}"
    walked = list(_walk(f"{base}/snapshots/{commit}", top, problems))
    is_readable = len(problems) == before
    for name, entry in walked:
        try:
            target = os.readlink(entry.path) if entry.is_symlink() else None
            facts = entry.stat(follow_symlinks=False) if target is None else None
        except OSError:  # gone since it was listed
            continue
        if facts is not None:
            problem = None if stat.S_ISREG(facts.st_mode) else "neither a file nor a link"
            files.append(CachedFile(name, 0 if problem else facts.st_size, None, problem))
        elif target is not None:
            # The link as the client writes it is compared as text: normpath costs ten times that.
            up = "../" * (2 + name.count("/")) + "blobs/"
            blob = target[len(up) :] if target.startswith(up) else _blob_of(base, top, name, target)
            if blob is None or "/" in blob:
                files.append(CachedFile(name, 0, None, "a link out of its repository"))
            elif blob in blobs:
                files.append(CachedFile(name, blobs[blob].size, blob))
            else:
                files.append(CachedFile(name, 0, blob, "a broken link"))
        what = files[-1].problem
        if what is not None:
            problems.append(Problem(f"{top}/{name}", what))
    return files, is_readable


def _blob_of(base: str, top: str, name: str, target: str) -> str | None:
    """Return the blob that an unusual link means, None where it leads elsewhere."""
    root = Path(base).parent
    folder = top.partition("/")[0]
    target_path = inside(root, f"{top}/{name}", target)
    prefix = f"{folder}/blobs/"
    return (
        target_path.removeprefix(prefix) if target_path and target_path.startswith(prefix) else None
    )


def _scan_extra(base: str, parts: Mapping[str, os.DirEntry[str]]) -> tuple[str, ...]:
    found = []
    for part in ("trees", ".no_exist"):
        if part in parts and parts[part].is_dir(follow_symlinks=False):
            found += [f"{part}/{name}" for name in sorted(_entries(f"{base}/{part}"))]
    return tuple(found)


def _walk(top: str, shown: str, problems: list[Problem]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield everything below a folder but real folders, by relative path; no link is followed."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        for name, entry in sorted(
            _entries(f"{top}/{prefix}", f"{shown}/{prefix}", problems).items()
        ):
            path = f"{prefix}{name}"
            if entry.is_dir(follow_symlinks=False):
                waiting.append(f"{path}/")
            else:
                yield path, entry


def _subfolder(
    base: str,
    name: str,
    folder: str,
    parts: Mapping[str, os.DirEntry[str]],
    problems: list[Problem],
) -> dict[str, os.DirEntry[str]]:
    if name not in parts:
        if name == "snapshots":
            problems.append(Problem(folder, "it has no revisions"))
        return {}
    if not parts[name].is_dir(follow_symlinks=False):
        problems.append(Problem(f"{folder}/{name}", "not a folder; it is not followed"))
        return {}
    return _entries(f"{base}/{name}", f"{folder}/{name}", problems)


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0


def _entries(
    path: str, shown: str = "", problems: list[Problem] | None = None
) -> dict[str, os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return {entry.name: entry for entry in found}
    except OSError as error:
        if problems is not None:
            what = f"cannot be read: {error.strerror or error}"
            problems.append(Problem(shown.rstrip("/"), what))
        return {}
