"""Rows of `loba cache ls`, whatever they are of: chosen, put in order, and written as lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from loba_tui.client.cache.backend import Listed
from loba_tui.core.associate.caches.hub.query import parse_filter, parse_sort
from loba_tui.core.text import clean
from loba_tui.core.units import show_age, show_size

HEADER = f"{'SIZE':>9}  {'USED':7}{'FETCHED':9}{'REVS':>4}  {'REFS':16}{'MARKS':22}ID"


def choose(
    rows: Iterable[Listed], conditions: Sequence[str], sort: str, limit: int | None, now: float
) -> Iterator[dict[str, Any]]:
    """Yield the records that pass all conditions; without a sort, as they come.

    Args:
        sort: Key and order; "" leaves the order.
        limit: Most records; None is all.
        now: Wall time that ages are counted from.

    Raises:
        RecipeError: A condition or the sort is none.
    """
    tests = [parse_filter(each) for each in conditions]
    chosen: Iterable[Listed]
    chosen = (pair for pair in rows if all(test(pair[0], now) for test in tests))
    if sort:
        key, is_reversed = parse_sort(sort)
        chosen = sorted(chosen, key=lambda pair: key(pair[0]), reverse=is_reversed)
    for _, record in itertools.islice(chosen, limit):
        yield record


def record_line(record: Mapping[str, Any], now: float) -> str:
    """Return a record as one line under `HEADER`."""

    def age(when: float | None, otherwise: str) -> str:
        return show_age(max(0.0, now - when)) if when else otherwise

    name = record["id"]
    if "revision" in record:
        name = f"{name}@{record['revision'][:12]}"
    count = record.get("entries", record.get("revisions", 1))
    return (
        f"{show_size(record['size']):>9}  {age(record['last_used'], 'never'):7}"
        f"{age(record['last_fetched'], '-'):9}{count:>4}  "
        f"{clean(' '.join(record['refs']), limit=15):16}"
        f"{clean(' '.join(record['marks']), limit=21):22}{clean(name)}"
    )
