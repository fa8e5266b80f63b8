"""The journal of a deletion: what was moved from where, written before the first move."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from loba_tui.core.foreign_json import parse_json

JOURNAL = "journal.json"
_VERSION = 1

Phase = Literal["moving", "done", "restoring"]


@dataclass(frozen=True)
class Moved:
    """A path of the cache; `is_link` is a hard link to what stayed there."""

    path: str
    size: int
    is_link: bool = False


@dataclass(frozen=True)
class Entry:
    """One deletion.

    Attributes:
        id: By which a user names it.
        sequence: Orders the entries; clocks do not.
        what: Repositories and revisions as a user knows them.
        size: Bytes that emptying it frees.
    """

    id: str
    sequence: int
    time: float
    what: tuple[str, ...]
    size: int
    phase: Phase
    items: tuple[Moved, ...]

    @property
    def is_interrupted(self) -> bool:
        """Say whether a kill left it half done."""
        return self.phase != "done"


def read_entry(folder: Path) -> Entry:
    """Return the entry in a folder of the trash.

    Raises:
        OSError, ValueError, KeyError, TypeError: It is none.
    """
    data: Mapping[str, Any] = parse_json((folder / JOURNAL).read_text("ascii"))
    if data["version"] != _VERSION or data["id"] != folder.name:
        raise ValueError("not a journal of this version")
    items = tuple(
        Moved(str(item["path"]), int(item["size"]), bool(item["is_link"])) for item in data["items"]
    )
    return Entry(
        id=folder.name,
        sequence=int(data["sequence"]),
        time=float(data["time"]),
        what=tuple(str(each) for each in data["what"]),
        size=int(data["size"]),
        phase=data["phase"],
        items=items,
    )


def write_entry(folder: int, entry: Entry) -> None:
    """Replace the journal in an entry's folder, and see it on the disk."""
    text = json.dumps({"version": _VERSION, **asdict(entry)})
    temporary = f".{JOURNAL}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(temporary, flags, 0o600, dir_fd=folder), "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, JOURNAL, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)
