"""Reading JSON that may come from anywhere: whatever is wrong with it is a ValueError.

Python's own reader also raises RecursionError, and takes tables so deep that whoever walks them
later meets one. The rest of the code reads JSON through here; a lint forbids `json.loads`.
"""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 64
"""Tables and lists within each other; what is written here has at most a handful."""


def parse_json(content: str | bytes, *, unique_keys: bool = False) -> Any:
    """Return the value of a JSON text, which is UTF-8 where it is bytes.

    Args:
        unique_keys: Take a key that is there twice for a mistake; else the last one counts.

    Raises:
        ValueError: It is no JSON, holds a number of thousands of digits, or is nested too deeply.
    """
    if not isinstance(content, str | bytes):  # what stands in another text may be anything
        raise ValueError("it is not a text")
    text = content if isinstance(content, str) else content.decode("utf-8")
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates if unique_keys else None)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    # Most texts have fewer brackets than that in all, which is counted in no time.
    if text.count("[") + text.count("{") > MAX_DEPTH:
        check_depth(value)
    return value


def parse_object(content: str | bytes) -> dict[str, Any]:
    """Return the table of a JSON text; raise ValueError where it is not one."""
    value = parse_json(content)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def check_depth(value: Any) -> None:
    """Raise ValueError where tables and lists are nested more than `MAX_DEPTH` deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inside: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inside += each.values()
            elif isinstance(each, list):
                inside += each
        level = [each for each in inside if isinstance(each, dict | list)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is there twice")
    return table
