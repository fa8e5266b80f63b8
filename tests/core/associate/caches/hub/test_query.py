"""Filters, sorts, sizes and ages."""

from __future__ import annotations

import pytest

from loba_tui.core.associate.caches.hub.query import Row, parse_filter, parse_sort
from loba_tui.core.errors import RecipeError

DAY = 86400
NOW = 100.0 * DAY
ROW = Row("org/name", "model", 5 * 10**9, NOW - 40 * DAY, NOW - 50 * DAY, ["main"], ["pinned"])


@pytest.mark.parametrize(
    ("condition", "passes"),
    [
        ("size>1GB", True),
        ("size > 5GB", False),
        ("size>=5GB", True),
        ("size<4.7GiB", True),
        ("used>30d", True),
        ("accessed>30d", True),
        ("used>6w", False),
        ("modified<=50d", True),
        ("type=model", True),
        ("type!=model", False),
        ("refs=main", True),
        ("refs!=main", False),
        ("is=pinned", True),
        ("is=broken", False),
        ("org/*", True),
        ("ORG/NAME", True),
        ("id=*/name", True),
        ("other/*", False),
    ],
)
def test_conditions(condition, passes):
    assert parse_filter(condition)(ROW, NOW) is passes


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("siez>1GB", "size"),
        ("size>many", "500MB"),
        ("used>30", "30d"),
        ("used>30x", "units"),
        ("type>model", "= or !="),
        ("", "empty"),
        ("nonsense=1", "Filters"),
    ],
)
def test_what_is_no_condition_is_explained(text, phrase):
    with pytest.raises(RecipeError, match=phrase):
        parse_filter(text)


def test_sorts_have_the_largest_and_newest_first_but_names_in_order():
    assert parse_sort("size")[1]
    assert not parse_sort("size:asc")[1]
    assert not parse_sort("name")[1]
    assert parse_sort("used")[0](ROW) == (ROW.used, ROW.name)
    with pytest.raises(RecipeError, match="size"):
        parse_sort("colour")
