"""A few of many items, evenly spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most this many items, evenly spread, in their order."""
    if len(items) <= most:
        return list(items)
    last = len(items) - 1
    return (
        [items[round(number * last / (most - 1))] for number in range(most)]
        if most > 1
        else [items[0]]
    )
