"""Folders of images that a configuration names: how many there are, and kohya's `10_name`."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from loba_tui.core.errors import RecipeError
from loba_tui.core.user_folders import with_home

MOST_ENTRIES = 200_000
"""Entries of a folder that are counted; more are a disk, not a data set."""

_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"))
_REPEATED = re.compile(r"(\d{1,5})_(.+)")


class RepeatedFolder(NamedTuple):
    """A folder that is named after kohya's convention: repeats, and what is on its images."""

    path: str
    repeats: int
    words: str


def resolved(path: str, beside: Path | None) -> Path | None:
    """Return where a folder is that a configuration names; None where it is not here."""
    if not path or "\0" in path or "://" in path:
        return None
    try:
        with_user = with_home(path)
    except RecipeError:
        return None
    for base in (Path(), beside.parent if beside is not None else Path()):
        try:
            if (base / with_user).is_dir():
                return base / with_user
        except (OSError, ValueError):
            return None
    return None


def count_images(folder: Path | None, *, nested: bool = False) -> int | None:
    """Return the number of images in a folder; None where it is not here or too large."""
    if folder is None:
        return None
    entries = list(itertools.islice(_files(folder, nested=nested), MOST_ENTRIES + 1))
    if len(entries) > MOST_ENTRIES:
        return None
    return sum(os.path.splitext(name)[1].lower() in _SUFFIXES for name in entries)


def repeated_folders(path: str, beside: Path | None) -> list[RepeatedFolder]:
    """Return the folders `10_name` in a folder, with paths as the configuration has them."""
    folder = resolved(path, beside)
    if folder is None:
        return []
    found = []
    try:
        with os.scandir(folder) as entries:
            listed = sorted(e.name for e in itertools.islice(entries, MOST_ENTRIES) if e.is_dir())
    except OSError:
        return []
    for name in listed:
        matched = _REPEATED.fullmatch(name)
        if matched and int(matched[1]):
            there = f"{path.rstrip('/')}/{name}"
            found.append(RepeatedFolder(there, int(matched[1]), matched[2].replace("_", " ")))
    return found


def _files(folder: Path, *, nested: bool) -> Iterator[str]:
    for _, folders, files in os.walk(folder):
        yield from files
        yield from folders
        if not nested:
            return
