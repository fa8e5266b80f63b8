"""Figures of an estimate as people read them."""

from __future__ import annotations

import pytest

from loba_tui.client.plans.requirements_text import flops
from loba_tui.client.runs.events import describe_event
from loba_tui.core.run.records import Event


def test_work():
    assert flops(6.76e12) == "6.8 TFLOP"


def test_a_run_says_what_it_needs_in_one_line():
    data = {
        "memory": {"needed": 2**30},
        "disk": {"needed": 2**20},
        "trained_parameters": 31360,
        "free_memory": 4 * 2**30,
    }
    line = describe_event(Event("estimated", 0.0, data))
    assert line == "needs about 1.0 GiB of 4.0 GiB free, 1.0 MiB of disk; trains 31,360 parameters"


def test_an_estimate_of_another_version_is_left_out():
    assert describe_event(Event("estimated", 0.0, {"memory": "much"})) == ""


@pytest.mark.parametrize("is_comparable", [True, False])
def test_measured_memory_is_shown_where_it_compares(is_comparable: bool):
    data = {
        "measured": 3 * 2**29,
        "estimated": 2**30,
        "ratio": 1.5,
        "is_comparable": is_comparable,
    }
    line = describe_event(Event("measured_memory", 0.0, data))
    assert ("estimated 1.0 GiB" in line) == is_comparable
