"""The small language in which repositories are chosen: `size>1GB`, `used>30d`, `stabilityai/*`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loba_tui.core.errors import RecipeError
from loba_tui.core.text import clean, did_you_mean
from loba_tui.core.units import parse_age, parse_size

_CONDITION = re.compile(r"([a-z]+)\s*(>=|<=|!=|>|<|=)\s*(.+)")
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    "=": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
}


@dataclass(frozen=True)
class Row:
    """Facts that a repository, or one of its revisions, is chosen and sorted by.

    Attributes:
        used: Wall time of the last use or fetch, whichever is later.
        marks: Such as pinned, in-use, broken, incomplete, detached.
    """

    name: str
    kind: str
    size: int
    used: float
    modified: float
    refs: Sequence[str]
    marks: Sequence[str]


Filter = Callable[[Row, float], bool]


def parse_filter(text: str) -> Filter:
    """Return the test that a condition, or a glob on the id, stands for.

    Raises:
        RecipeError: It is neither.
    """
    match = _CONDITION.fullmatch(text.strip())
    if match is None:
        glob = text.strip().lower()
        if not glob:
            raise RecipeError("An empty filter chooses nothing.", 'Write "size>1GB" or "owner/*".')
        return lambda row, _now: fnmatch.fnmatchcase(row.name.lower(), glob)
    key, operator, value = match.groups()
    compare = _COMPARE[operator]
    if key == "size":
        size = parse_size(value)
        return lambda row, _now: compare(row.size, size)
    if key in ("used", "accessed"):
        age = parse_age(value)
        return lambda row, now: compare(now - row.used, age)
    if key == "modified":
        age = parse_age(value)
        return lambda row, now: compare(now - row.modified, age)
    if key in ("type", "refs", "is", "id"):
        return _words(key, operator, value.strip().lower())
    known = ["size", "used", "accessed", "modified", "type", "refs", "is", "id"]
    raise RecipeError(
        f"{clean(key, limit=60)} is nothing to filter by.",
        did_you_mean(key, known, f"Filters: {', '.join(known)}."),
    )


def _words(key: str, operator: str, value: str) -> Filter:
    if operator not in ("=", "!="):
        raise RecipeError(f"{key} is compared with = or != only.")

    def test(row: Row, _now: float) -> bool:
        words: Sequence[str] = {
            "type": [row.kind],
            "refs": row.refs,
            "is": row.marks,
            "id": [row.name],
        }[key]
        found = any(fnmatch.fnmatchcase(word.lower(), value) for word in words)
        return found == (operator == "=")

    return test


def parse_sort(text: str) -> tuple[Callable[[Row], tuple[object, ...]], bool]:
    """Return the key of a sort and whether it is reversed; sizes and times come largest first.

    Raises:
        RecipeError: It is not KEY, KEY:asc or KEY:desc.
    """
    key, _, order = text.strip().lower().partition(":")
    keys: Mapping[str, Callable[[Row], tuple[object, ...]]] = {
        "name": lambda row: (row.name.lower(),),
        "size": lambda row: (row.size, row.name),
        "used": lambda row: (row.used, row.name),
        "accessed": lambda row: (row.used, row.name),
        "modified": lambda row: (row.modified, row.name),
    }
    if key not in keys or order not in ("", "asc", "desc"):
        raise RecipeError(
            f"{clean(text, limit=60)} is nothing to sort by.",
            f"Write one of {', '.join(keys)}, with :asc or :desc behind it.",
        )
    return keys[key], order == "desc" or (not order and key != "name")
