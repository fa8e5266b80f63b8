"""Read a hub cache, one repository at a time, without following a link out of it.

Only names, sizes and link texts are read: a content is never opened, a link never followed by the
file system. So a loop, a broken link or one that leads outside costs a `Problem` and nothing else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
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
from loba_tui.core.associate.caches.hub.paths import entries_of
from loba_tui.core.associate.caches.hub.store import inside, is_store, payload_of_link, scan_store

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
    for name, entry in sorted(entries_of(base).items()):
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
    return _RepositoryScan(root, folder).read()


class _RepositoryScan:
    """Reads one repository's folder; what is not as it should be becomes a problem."""

    def __init__(self, root: Path, folder: str) -> None:
        self._root, self._folder = root, folder
        self._base = f"{os.fspath(root)}/{folder}"
        self._problems: list[Problem] = []
        self._parts = self._entries("")
        self._blobs: dict[str, Blob] = {}

    def read(self) -> Repository:
        kind, repo_id = parse_folder(self._folder) or ("model", self._folder)
        incomplete = self._scan_blobs()
        refs = self._scan_refs()
        refs_of: dict[str, list[str]] = {}
        for ref, commit in sorted(refs.items()):
            refs_of.setdefault(commit, []).append(ref)
        revisions = []
        for commit, entry in sorted(self._subfolder("snapshots").items()):
            if entry.is_symlink() or not entry.is_dir(follow_symlinks=False):
                if commit not in IGNORED:
                    self._note(f"snapshots/{commit}", "not a revision's folder")
                continue
            files, is_readable = self._scan_snapshot(commit)
            times = [self._blobs[file.blob].modified for file in files if file.blob in self._blobs]
            # A second revision of old contents is as young as its folder.
            modified = max([_modified(entry), *times])
            named = tuple(refs_of.pop(commit, ()))
            revisions.append(Revision(commit, tuple(files), named, modified, is_readable))
        for commit, lost in refs_of.items():
            for ref in lost:
                self._note(f"refs/{ref}", f"names {commit[:12]}, which is not there")
        times = [blob.modified for blob in self._blobs.values()]
        times += [revision.modified for revision in revisions]
        return Repository(
            folder=self._folder,
            kind=kind,
            id=repo_id,
            revisions=tuple(revisions),
            blobs=self._blobs,
            incomplete=incomplete,
            refs=refs,
            extra=self._scan_extra(),
            problems=tuple(self._problems),
            modified=max(times, default=0.0),
        )

    def _note(self, path: str, what: str) -> None:
        self._problems.append(Problem(f"{self._folder}/{path}".rstrip("/"), what))

    def _scan_blobs(self) -> tuple[Blob, ...]:
        """Find the blobs, and return the incomplete ones."""
        incomplete = []
        for name, entry in self._subfolder("blobs").items():
            path = f"blobs/{name}"
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
                    self._blobs[name] = blob
            elif stat.S_ISLNK(facts.st_mode):
                payload = payload_of_link(self._root, f"{self._folder}/{path}", target)
                if payload is None:
                    self._note(path, "a link out of the cache; it is not followed")
                    continue
                try:
                    stored = os.lstat(f"{os.fspath(self._root)}/{STORE}/{payload[:2]}/{payload}")
                except OSError:
                    self._note(path, "a broken link into the shared store")
                    continue
                self._blobs[name] = Blob(name, stored.st_size, stored.st_mtime, payload)
            elif name == INCOMING and stat.S_ISDIR(facts.st_mode):
                incomplete += _scan_incoming(entry.path)
            else:
                self._note(path, "neither a file nor a link")
        return tuple(incomplete)

    def _scan_refs(self) -> dict[str, str]:
        refs: dict[str, str] = {}
        for name, entry in self._walk("refs") if "refs" in self._parts else ():
            if not entry.is_file(follow_symlinks=False):
                self._note(f"refs/{name}", "not a file")
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
                self._note(f"refs/{name}", "does not hold a commit")
        return refs

    def _scan_snapshot(self, commit: str) -> tuple[list[CachedFile], bool]:
        """Return the files of a revision, and whether all of its folders could be read."""
        files = []
        before = len(self._problems)
        top = f"snapshots/{commit}"
        walked = list(self._walk(top))
        is_readable = len(self._problems) == before
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
                files.append(self._linked_file(top, name, target))
            what = files[-1].problem
            if what is not None:
                self._note(f"{top}/{name}", what)
        return files, is_readable

    def _linked_file(self, top: str, name: str, target: str) -> CachedFile:
        # The link as the client writes it is compared as text: normpath costs ten times that.
        up = "../" * (2 + name.count("/")) + "blobs/"
        blob = (
            target[len(up) :] if target.startswith(up) else self._blob_of(f"{top}/{name}", target)
        )
        if blob is None or "/" in blob:
            return CachedFile(name, 0, None, "a link out of its repository")
        if blob in self._blobs:
            return CachedFile(name, self._blobs[blob].size, blob)
        return CachedFile(name, 0, blob, "a broken link")

    def _blob_of(self, path: str, target: str) -> str | None:
        """Return the blob that an unusual link means, None where it leads elsewhere."""
        found = inside(self._root, f"{self._folder}/{path}", target)
        prefix = f"{self._folder}/blobs/"
        return found.removeprefix(prefix) if found and found.startswith(prefix) else None

    def _scan_extra(self) -> tuple[str, ...]:
        found = []
        for part in ("trees", ".no_exist"):
            if part in self._parts and self._parts[part].is_dir(follow_symlinks=False):
                found += [f"{part}/{name}" for name in sorted(entries_of(f"{self._base}/{part}"))]
        return tuple(found)

    def _walk(self, top: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield everything below a folder but real folders, by relative path; follow no link."""
        waiting = [""]
        while waiting:
            prefix = waiting.pop()
            for name, entry in sorted(self._entries(f"{top}/{prefix}").items()):
                path = f"{prefix}{name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{path}/")
                else:
                    yield path, entry

    def _subfolder(self, name: str) -> dict[str, os.DirEntry[str]]:
        if name not in self._parts:
            if name == "snapshots":
                self._note("", "it has no revisions")
            return {}
        if not self._parts[name].is_dir(follow_symlinks=False):
            self._note(name, "not a folder; it is not followed")
            return {}
        return self._entries(name)

    def _entries(self, path: str) -> dict[str, os.DirEntry[str]]:
        def note(error: OSError) -> None:
            self._note(path, f"cannot be read: {error.strerror or error}")

        return entries_of(f"{self._base}/{path}", note)


def _scan_incoming(path: str) -> Iterator[Blob]:
    for name, entry in entries_of(path).items():
        with suppress(OSError):  # gone since it was listed
            facts = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(facts.st_mode):
                yield Blob(f"{INCOMING}/{name}", facts.st_size, facts.st_mtime)


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0
