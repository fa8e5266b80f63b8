"""Groups of computed tensors and their entries, found without any of the libraries.

What is not as it should be is told, never an exception.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from loba_tui.core.associate.caches.hub.paths import entries_of
from loba_tui.core.associate.caches.tensors import layout
from loba_tui.core.errors import RecipeError
from loba_tui.core.files import is_locked
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.text import clean, did_you_mean

_HEADER_BYTES = 64 * 1024
_MAX_FACTS_BYTES = 64 * 1024


class Entry(NamedTuple):
    """One entry; `path` is relative to the group, `used` the wall time of its last use."""

    path: str
    size: int
    used: float

    @property
    def key(self) -> str:
        """Key that it is known by; "" for the rest of a broken write."""
        name = self.path.rsplit("/", 1)[-1].removesuffix(layout.SUFFIX)
        return name if layout.KEY.fullmatch(name) else ""


@dataclass(frozen=True)
class TensorGroup:
    """Tensors that one model computed on one kind of machine.

    Attributes:
        facts: What its entries have in common; {} where that cannot be read.
        leftovers: What broken writes left, relative to the group.
        used: Wall time of the last use.
    """

    kind: str
    name: str
    facts: Mapping[str, Any]
    entries: Sequence[Entry]
    leftovers: Sequence[Entry]
    used: float
    is_in_use: bool

    @property
    def id(self) -> str:
        """By what commands name it."""
        return f"{self.kind}:{self.model}@{self.name[:8]}"

    @property
    def model(self) -> str:
        """The id of the model."""
        model = self.facts.get("model")
        return str(model.get("id", "?")) if isinstance(model, Mapping) else "?"

    @property
    def size(self) -> int:
        """Bytes of all that lies there."""
        return sum(each.size for each in (*self.entries, *self.leftovers))


def scan(root: Path, kinds: Collection[str] = layout.KINDS) -> list[TensorGroup]:
    """Return the groups of a folder, by kind and name; none where there is no such folder."""
    return [
        _read_group(root, kind, each)
        for kind in layout.KINDS
        if kind in kinds
        for each in folder_of(root / kind)
        if layout.GROUP.fullmatch(each.name) and each.is_dir(follow_symlinks=False)
    ]


def find(found: Sequence[TensorGroup], targets: Sequence[str]) -> list[TensorGroup]:
    """Return the groups meant by KIND, KIND:MODEL, KIND:HASH or KIND:MODEL@HASH.

    Raises:
        RecipeError: One means nothing that is there.
    """
    chosen: dict[str, TensorGroup] = {}
    for target in targets:
        kind, _, wanted = target.partition(":")
        meant = [
            group
            for group in found
            if group.kind == kind
            and (
                wanted in ("", group.model)
                or group.name.startswith(wanted.removeprefix(f"{group.model}@"))
            )
        ]
        if not meant:
            raise RecipeError(
                f"Nothing is kept as {clean(target, limit=200)}.",
                did_you_mean(
                    target, [group.id for group in found], "`loba cache ls` lists what is there."
                ),
            )
        chosen |= {group.id: group for group in meant}
    return list(chosen.values())


def is_target(target: str) -> bool:
    """Say whether a command's argument means kept tensors, and not a repository."""
    return target.partition(":")[0] in layout.KINDS


def verify(root: Path, group: TensorGroup) -> Iterator[tuple[Entry, str | None]]:
    """Yield each entry with what is wrong with it, None where every bit is as it was written."""
    for entry in group.entries:
        try:
            layout.check(_read(_path(root, group) / entry.path), entry.key)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            yield entry, getattr(error, "strerror", None) or str(error)
        else:
            yield entry, None


def describe(root: Path, group: TensorGroup, entry: Entry) -> dict[str, Any]:
    """Return what an entry says of itself: the prompt, or the image and its settings."""
    try:
        content = _read(_path(root, group) / entry.path, _HEADER_BYTES)
    except OSError:
        return {}
    return layout.about(content)


def _path(root: Path, group: TensorGroup) -> Path:
    return root / group.kind / group.name


def _read(path: Path, most: int = -1) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        return file.read(most)


def _read_group(root: Path, kind: str, folder: os.DirEntry[str]) -> TensorGroup:
    entries: list[Entry] = []
    leftovers: list[Entry] = []
    used = 0.0
    for each in folder_of(Path(folder.path)):
        if each.name == layout.GROUP_FILE:
            used = facts_of(each).st_mtime
        elif layout.PREFIX.fullmatch(each.name) and each.is_dir(follow_symlinks=False):
            for file in folder_of(Path(each.path)):
                facts = facts_of(file)
                entry = Entry(f"{each.name}/{file.name}", facts.st_size, facts.st_mtime)
                is_whole = stat.S_ISREG(facts.st_mode) and entry.key.startswith(each.name)
                (entries if entry.key and is_whole else leftovers).append(entry)
                used = max(used, facts.st_mtime if is_whole else 0.0)
        else:
            facts = facts_of(each)
            leftovers.append(Entry(each.name, facts.st_size, facts.st_mtime))
    # Where that cannot be told, it may be in use.
    is_in_use = is_locked(layout.lock_path(root, kind, folder.name)) is not False
    group_facts = _group_facts(Path(folder.path) / layout.GROUP_FILE)
    return TensorGroup(kind, folder.name, group_facts, sorted(entries), leftovers, used, is_in_use)


def _group_facts(path: Path) -> Mapping[str, Any]:
    try:
        facts = parse_json(_read(path, _MAX_FACTS_BYTES))["shelf"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return facts if isinstance(facts, dict) else {}


def facts_of(entry: os.DirEntry[str]) -> os.stat_result:
    """Return what the disk says of a name itself, zeros where it is gone by now."""
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:  # gone since it was listed
        return os.stat_result((0,) * 10)


def folder_of(path: Path) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, by name; nothing where it cannot be listed."""
    return sorted(entries_of(path).values(), key=lambda entry: entry.name)
