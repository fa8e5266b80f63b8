"""The trash beside a cache: deletions are renames into it, and can be undone until it is emptied.

    hub.loba/trash/<id>/journal.json     what was moved from where, written before the first move
                        0, 1, 2, …       the things themselves, by number

A kill in between is recovered from the journal: a number that is there was moved, one that is not
was not. Contents that stay in the cache because other revisions need them are held by a hard link
too, so that an undo is whole whatever else was deleted since; that costs no space.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loba_tui.core.associate.caches.hub import store as hub_store
from loba_tui.core.associate.caches.hub.journal import (
    JOURNAL,
    Entry,
    Moved,
    read_entry,
    write_entry,
)
from loba_tui.core.associate.caches.hub.paths import (
    check_path,
    client_lock,
    exists,
    merge,
    open_folder,
    parent_of,
)
from loba_tui.core.associate.caches.hub.requests import Plan
from loba_tui.core.errors import InUseError, LobaError, ResourceError
from loba_tui.core.files import PRIVATE_DIR_MODE
from loba_tui.core.text import clean

_GONE = ".gone-"

Reserve = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Restored:
    """Result of an undo.

    Attributes:
        kept: Paths that were there again already and were left as they are.
        missing: Paths that could not be brought back.
    """

    entry: Entry
    kept: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Trash:
    """The trash of one cache. Everything but `entries` needs the cache's lock to be held."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self._folder = folder

    def entries(self) -> list[Entry]:
        """Return the deletions that can be undone, oldest first."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []
        found = []
        for name in names:
            if not name.startswith("."):
                with suppress(OSError, ValueError, KeyError, TypeError):
                    found.append(read_entry(self._folder / name))
        return sorted(found, key=lambda entry: (entry.sequence, entry.id))

    def take(self, plan: Plan, what: Sequence[str], reserve: Reserve) -> Entry:
        """Move what a plan removes into a new entry; on any failure everything is put back.

        Args:
            what: What goes as a user knows it.
            reserve: Holds a folder of the cache against everybody while it is worked on.

        Raises:
            InUseError: Something is being fetched, or is gone since the plan was made.
            ResourceError: The trash cannot be written, or is on another file system.
        """
        for each in plan.items:
            check_path(each.path)
        before = self.entries()
        stamp = time.strftime("%Y%m%d-%H%M%S")
        listed = [Moved(path, 0, is_link=True) for path in plan.shared]
        listed += [Moved(each.path, each.size) for each in plan.items]
        entry = Entry(
            id=f"{stamp}-{secrets.token_hex(2)}",
            sequence=max((each.sequence for each in before), default=0) + 1,
            time=time.time(),
            what=tuple(what),
            size=plan.frees,
            phase="moving",
            items=tuple(listed),
        )
        with self._opened(entry, make=True) as (root, folder):
            write_entry(folder, entry)
            try:
                numbered = enumerate(entry.items)
                by_folder = itertools.groupby(numbered, lambda each: each[1].path.partition("/")[0])
                for top, group in by_folder:
                    with reserve(top):
                        for number, item in group:
                            self._take_one(root, folder, number, item)
            except BaseException as error:
                self._put_back(root, folder, entry)
                self._discard(entry)
                raise _explained(error, entry) from error
            entry = replace(entry, phase="done")
            write_entry(folder, entry)
        return entry

    def restore(self, entry: Entry) -> Restored:
        """Bring an entry back; nothing that is there by now is overwritten."""
        with self._opened(entry) as (root, folder):
            write_entry(folder, replace(entry, phase="restoring"))
            restored = self._put_back(root, folder, entry)
        self._discard(entry)
        return restored

    def give_back(self, entry: Entry, paths: Collection[str]) -> None:
        """Bring some paths of an entry back; the rest of it stays in the trash."""
        with self._opened(entry) as (root, folder):
            for number, item in enumerate(entry.items):
                if item.path in paths and exists(folder, str(number)):
                    with parent_of(root, item.path, make=True) as (parent, name):
                        merge(folder, str(number), parent, name)
                    hub_store.register(self._root, root, item.path)

    def recover(self) -> list[Restored]:
        """Put back what a kill left half done."""
        self._sweep()
        return [self.restore(entry) for entry in self.entries() if entry.is_interrupted]

    def empty(self, entries: Sequence[Entry]) -> int:
        """Remove entries for good and return the bytes that this freed."""
        freed = self.measure(entries)
        for entry in entries:
            self._discard(entry)
        return freed

    def measure(self, entries: Sequence[Entry]) -> int:
        """Return the bytes that emptying entries frees, hard links elsewhere taken into account."""
        links: dict[tuple[int, int], tuple[int, int, int]] = {}
        for entry in entries:
            for folder, _, names in os.walk(self._folder / entry.id):
                for name in names:
                    if name == JOURNAL:
                        continue
                    with suppress(OSError):
                        facts = os.lstat(os.path.join(folder, name))
                        if not stat.S_ISREG(facts.st_mode):
                            continue
                        key = (facts.st_dev, facts.st_ino)
                        seen = links.get(key, (0, 0, 0))[0]
                        links[key] = (seen + 1, facts.st_nlink, facts.st_size)
        return sum(size for seen, total, size in links.values() if seen >= total)

    @contextmanager
    def _opened(self, entry: Entry, *, make: bool = False) -> Iterator[tuple[int, int]]:
        """Open the cache's root and the entry's folder."""
        with ExitStack() as stack:
            root = stack.enter_context(open_folder(self._root))
            try:
                if make:
                    self._folder.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
                    (self._folder / entry.id).mkdir(mode=PRIVATE_DIR_MODE)
                folder = stack.enter_context(open_folder(self._folder / entry.id))
            except OSError as error:
                raise ResourceError(
                    f"The trash {clean(self._folder)} cannot be used: {error.strerror or error}.",
                    "It lies beside the cache, and that folder has to be writable.",
                ) from error
            if os.fstat(folder).st_dev != os.fstat(root).st_dev:
                if make:
                    os.rmdir(self._folder / entry.id)
                raise ResourceError(
                    f"The trash {clean(self._folder)} is not on the file system of its cache.",
                    "Make the cache a folder of a mounted disk, not the mount point itself.",
                )
            yield root, folder

    def _take_one(self, root: int, folder: int, number: int, item: Moved) -> None:
        with client_lock(root, item.path), parent_of(root, item.path) as (parent, name):
            if not item.is_link:
                if item.path.endswith(".refs") and not exists(parent, name):
                    return
                self._check_payload(item)
                os.rename(name, str(number), src_dir_fd=parent, dst_dir_fd=folder)
                return
            # A file system without hard links, or a content of somebody else's: then it is not
            # held, and an undo may find it gone.
            with suppress(OSError):
                os.link(
                    name, str(number), src_dir_fd=parent, dst_dir_fd=folder, follow_symlinks=False
                )

    def _check_payload(self, item: Moved) -> None:
        """Look again, with its lock held, whether a payload of the shared store is unused."""
        payload = hub_store.payload_at(item.path)
        if payload is not None and hub_store.is_used(self._root, payload):
            raise InUseError(
                f"{clean(item.path)} is used by another repository by now.", "Plan it again."
            )

    def _put_back(self, root: int, folder: int, entry: Entry) -> Restored:
        kept: list[str] = []
        missing: list[str] = []
        for number, item in reversed(list(enumerate(entry.items))):
            check_path(item.path)
            if not exists(folder, str(number)):
                continue
            with parent_of(root, item.path, make=True) as (parent, name):
                there = merge(folder, str(number), parent, name)
            base = item.path.rpartition("/")[0]
            if not item.is_link:
                kept += [f"{base}/{path}" if base else path for path in there]
        for item in entry.items:
            missing += hub_store.register(self._root, root, item.path)
        return Restored(entry, tuple(kept), tuple(missing))

    def _discard(self, entry: Entry) -> None:
        """Remove an entry's folder; renamed first, so that a kill leaves no half of an entry."""
        gone = self._folder / f"{_GONE}{entry.id}"
        os.rename(self._folder / entry.id, gone)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what is no entry: emptied ones, and one that was never begun."""
        with suppress(FileNotFoundError):
            for name in os.listdir(self._folder):
                if name.startswith(_GONE):
                    # rmtree works by descriptors and refuses a folder that became a link.
                    shutil.rmtree(self._folder / name, onerror=_make_writable)
                else:
                    # One that was never begun is empty; any other keeps its folder.
                    with suppress(OSError):
                        os.rmdir(self._folder / name)


def _make_writable(function: Any, path: str, _: object) -> None:
    os.chmod(os.path.dirname(path), PRIVATE_DIR_MODE)
    with suppress(FileNotFoundError):
        function(path)


def _explained(error: BaseException, entry: Entry) -> BaseException:
    if isinstance(error, LobaError) or not isinstance(error, OSError):
        return error
    if isinstance(error, FileNotFoundError):
        return InUseError(
            f"{clean(', '.join(entry.what), limit=200)} changed while it was being removed.",
            "Nothing was removed; look at it again.",
        )
    return ResourceError(
        f"{clean(', '.join(entry.what), limit=200)} cannot be removed: {error.strerror or error}.",
        "Nothing was removed. Check who owns the cache.",
    )
