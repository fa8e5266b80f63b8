"""Quantities as people read and write them."""

from __future__ import annotations

import pytest

from loba_tui.core.units import (
    parse_age,
    parse_size,
    show_age,
    show_countdown,
    show_estimate,
    show_memory,
    show_mib,
    show_short_age,
    show_size,
)


def test_sizes_ages_and_their_readings():
    assert parse_size("1.5 GB") == 1_500_000_000
    assert parse_size("2GiB") == 2 * 2**30
    assert parse_size("10") == 10
    assert parse_age("90d") == 90 * 86400
    assert [show_size(n) for n in (0, 999, 1000, 99_960, 6_939_000_000, 3e15)] == [
        "0 B",
        "999 B",
        "1.0 KB",
        "100 KB",
        "6.9 GB",
        "3000.0 TB",
    ]
    assert [show_age(n) for n in (5, 120, 7200, 3 * 86400, 800 * 86400)] == [
        "now",
        "2 min",
        "2 h",
        "3 d",
        "2 y",
    ]
    assert [show_short_age(n) for n in (12, 7200, 800 * 86400)] == ["12s", "2h", "800d"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (24 * 2**30, "24.0 GiB")],
)
def test_memory_is_shown_in_the_largest_unit_that_it_fills(number: int, text: str):
    assert show_memory(number) == text


def test_mebibytes_stay_mebibytes():
    assert show_mib(3 * 2**30) == "3,072.0 MiB"
    assert show_mib(2**19, digits=0) == "0 MiB"


def test_durations():
    seconds = (-1, 59.6, 3599, 3600)
    assert [show_countdown(each) for each in seconds] == ["0:00", "1:00", "59:59", "1:00:00"]
    assert [show_estimate(each) for each in (61, 3600, 4 * 3600)] == ["61 s", "60 min", "4.0 h"]
