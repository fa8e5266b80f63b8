"""Remove kept tensors: what is named, or what is of no more use; plan first, then execute.

Everything can be made again, so there is no trash; but nothing is removed that a run uses, or that
does not lie in the folder itself.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from loba_tui.core.associate.caches.hub.paths import is_real_folder, locked, open_folder, parent_of
from loba_tui.core.associate.caches.hub.requests import Prune
from loba_tui.core.associate.caches.tensors import layout
from loba_tui.core.associate.caches.tensors.file_hashes import HASHES
from loba_tui.core.associate.caches.tensors.scan import Entry, TensorGroup, facts_of, folder_of
from loba_tui.core.errors import InUseError, RefusedError
from loba_tui.core.text import clean

_GONE = ".gone-"
# What a writer has not renamed by then it never will.
_LEFTOVER_SECONDS = 3600.0
_HASH_SECONDS = 180 * 86400.0


@dataclass(frozen=True)
class Item:
    """Entries that go from a group; `entries` None is the whole of it."""

    group: TensorGroup
    entries: Sequence[Entry] | None = None

    @property
    def size(self) -> int:
        """Bytes that it frees."""
        return self.group.size if self.entries is None else sum(each.size for each in self.entries)


@dataclass(frozen=True)
class Plan:
    """Plan of a removal, with the groups that stay because a run uses them."""

    items: Sequence[Item]
    in_use: Sequence[TensorGroup] = ()

    @property
    def frees(self) -> int:
        """Bytes."""
        return sum(item.size for item in self.items)


def plan_removal(groups: Sequence[TensorGroup]) -> Plan:
    """Plan to remove whole groups."""
    return Plan(
        [Item(each) for each in groups if not each.is_in_use],
        [each for each in groups if each.is_in_use],
    )


def plan_prune(groups: Sequence[TensorGroup], request: Prune) -> Plan:
    """Plan to remove what is too old or too much; what broken writes left always goes."""
    free = [each for each in groups if not each.is_in_use]
    going: dict[str, set[Entry]] = {group.id: set() for group in free}
    if request.unused_seconds is not None:
        for group in free:
            going[group.id] |= {
                each for each in group.entries if request.now - each.used >= request.unused_seconds
            }
    if request.keep_bytes is not None:
        kept = [(e, s.id) for s in free for e in s.entries if e not in going[s.id]]
        total = sum(each.size for each, _ in kept)
        total += sum(each.size for each in groups if each.is_in_use)
        for entry, group_id in sorted(kept, key=lambda pair: (pair[0].used, pair[0].path)):
            if total <= request.keep_bytes:
                break
            going[group_id].add(entry)
            total -= entry.size
    items = []
    for group in free:
        chosen = sorted(going[group.id])
        chosen += [each for each in group.leftovers if request.now - each.used >= _LEFTOVER_SECONDS]
        if len(chosen) == len(group.entries) + len(group.leftovers):
            items.append(Item(group))
        elif chosen:
            items.append(Item(group, chosen))
    return Plan(items, [each for each in groups if each.is_in_use])


def execute(root: Path, plan: Plan) -> int:
    """Remove what a plan names, and return the bytes that this freed.

    An entry that was used since it was planned stays.

    Raises:
        InUseError: A run has begun to use a group; nothing was removed.
        RefusedError: Something on the way is a link.
    """
    freed = 0
    with ExitStack() as stack:
        for item in plan.items:
            lock = layout.lock_path(root, item.group.kind, item.group.name)
            stack.enter_context(locked(lock, what=clean(item.group.id), patience=0.0))
        top = stack.enter_context(open_folder(Path(os.path.realpath(root))))
        for item in plan.items:
            freed += _remove(top, item)
    return freed


def _remove(top: int, item: Item) -> int:
    """Remove a group, or entries of it; no link is followed on the way."""
    group = item.group
    with ExitStack() as stack:
        try:
            kind, name = stack.enter_context(parent_of(top, f"{group.kind}/{group.name}"))
        except FileNotFoundError:
            return 0
        if not is_real_folder(kind, name):
            return 0
        if item.entries is None:
            # Its name changes first, so that a kill in between leaves nothing half.
            gone = f"{_GONE}{secrets.token_hex(8)}"
            os.rename(name, gone, src_dir_fd=kind, dst_dir_fd=kind)
            shutil.rmtree(gone, dir_fd=kind)
            return item.size
    return sum(_remove_entry(top, f"{group.kind}/{group.name}/{e.path}", e) for e in item.entries)


def _remove_entry(top: int, path: str, entry: Entry) -> int:
    with suppress(FileNotFoundError, RefusedError), parent_of(top, path) as (folder, name):
        facts = os.lstat(name, dir_fd=folder)
        if not stat.S_ISDIR(facts.st_mode) and facts.st_mtime <= entry.used:
            os.unlink(name, dir_fd=folder)
            return facts.st_size
    return 0


def tidy(root: Path) -> int:
    """Finish removals that were killed half-way and count them; forget old checksums of files."""
    for folder in folder_of(root / HASHES):
        for each in folder_of(Path(folder.path)) if folder.is_dir(follow_symlinks=False) else ():
            facts = facts_of(each)
            if stat.S_ISREG(facts.st_mode) and time.time() - facts.st_mtime > _HASH_SECONDS:
                with suppress(OSError):
                    os.unlink(each.path)
    number = 0
    for kind in layout.KINDS:
        for each in folder_of(root / kind):
            is_old = time.time() - facts_of(each).st_ctime > _LEFTOVER_SECONDS
            if each.name.startswith(_GONE) and each.is_dir(follow_symlinks=False) and is_old:
                with suppress(OSError, InUseError):
                    shutil.rmtree(each.path)
                    number += 1
    return number
