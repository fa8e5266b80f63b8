"""The search for a slider's range and scale, on curves that are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from loba_tui.core.program.evaluation.calibration.search import (
    LEAST_SCALE,
    MOST_SCALE,
    TOLERANCE,
    Found,
    Search,
    Seen,
)

DEAD = 0.03


class Curve:
    """Images whose measure follows a function, whole between two scales."""

    def __init__(
        self, effect: Callable[[float], float], low: float = -99.0, high: float = 99.0
    ) -> None:
        self.effect, self.low, self.high = effect, low, high
        self.looked: list[float] = []

    def __call__(self, scales: Sequence[float]) -> list[Seen]:
        self.looked += scales
        return [Seen(self.effect(s), self.low <= s <= self.high) for s in scales]


def search(curve: Curve, wanted: float | None) -> Found:
    return Search(curve, wanted, least=DEAD).run()


def no_scale_twice(curve: Curve) -> bool:
    return len(curve.looked) == len(set(curve.looked))


@pytest.mark.parametrize("wanted", [0.05, 0.4, 0.75, 1.3, -0.4])
def test_a_monotone_slider_gets_the_scale_of_the_mean_effect(wanted: float) -> None:
    rising = math.copysign(1.0, wanted)
    curve = Curve(lambda s: rising * (0.3 * s if s > 0 else 0.2 * s))
    found = search(curve, wanted)
    assert found.is_reached
    assert found.scale == pytest.approx(abs(wanted) / 0.25, rel=TOLERANCE)
    assert no_scale_twice(curve)


def test_a_bent_curve_is_found_by_more_looks() -> None:
    found = search(Curve(lambda s: math.copysign(math.expm1(abs(s)), s)), 0.3)
    assert found.is_reached
    assert found.scale == pytest.approx(math.log1p(0.3), rel=2 * TOLERANCE)


def test_the_sides_alone_are_told_too() -> None:
    below, above = search(Curve(lambda s: 0.4 * s if s > 0 else 0.1 * s), 0.4).sides
    assert above.scale_of(0.4) == pytest.approx(1.0)
    assert below.scale_of(0.4) == pytest.approx(4.0)
    assert below.scale_of(9.0) is None


def test_the_range_ends_before_images_break() -> None:
    curve = Curve(lambda s: 0.1 * s, low=-3.1, high=5.2)
    found = search(curve, None)
    low, high = found.ends
    assert -3.1 <= low <= -2.5
    assert 4.0 <= high <= 5.2
    assert found.scale == -low, "at the scale, both sides are in the range"
    assert found.is_reached
    assert no_scale_twice(curve)


def test_the_range_ends_where_nothing_moves_any_more() -> None:
    found = search(Curve(lambda s: max(-3.0, min(3.0, s))), None)
    low, high = found.ends
    assert 3.0 <= high == -low <= 4.0
    assert found.scale == high


def test_a_curve_that_turns_ends_there() -> None:
    found = search(Curve(lambda s: s if abs(s) <= 2 else math.copysign(3 - abs(s), s)), None)
    assert found.ends == (-2.0, 2.0)


def test_a_slider_that_falls_has_a_range_too() -> None:
    found = search(Curve(lambda s: -0.5 * s, low=-4, high=4), None)
    assert found.ends == (-4.0, 4.0)
    assert found.scale == 4.0


def test_images_that_break_early_are_looked_at_nearer_to_zero() -> None:
    found = search(Curve(lambda s: 4.0 * s, low=-0.3, high=0.3), 0.8)
    assert found.is_reached
    assert found.scale == pytest.approx(0.2, rel=TOLERANCE)
    assert max(found.ends) <= 0.3


def test_an_effect_beyond_the_range_is_come_near_to() -> None:
    found = search(Curve(lambda s: 0.1 * s, low=-3, high=3), 0.8)
    assert not found.is_reached
    assert found.scale == 3.0
    assert found.seen[3.0].effect == pytest.approx(0.3)


def test_an_effect_just_behind_a_doubling_is_reached_by_halving() -> None:
    found = search(Curve(lambda s: 0.1 * s, low=-3, high=3), 0.29)
    assert found.is_reached
    assert found.scale == pytest.approx(2.9, rel=TOLERANCE)


def test_one_side_alone_is_used_where_the_other_does_nothing() -> None:
    found = search(Curve(lambda s: max(0.0, 0.2 * s)), 0.3)
    assert [side.sign for side in found.used] == [1]
    assert found.ends[0] == 0.0
    assert found.is_reached
    assert found.scale == pytest.approx(1.5, rel=TOLERANCE)


@pytest.mark.parametrize(
    "effect",
    [
        pytest.param(lambda s: -0.3 * s, id="the other way"),
        pytest.param(lambda s: 0.0, id="nothing"),
        pytest.param(lambda s: 1e-4 * s, id="next to nothing"),
        pytest.param(lambda s: float("nan"), id="nothing to measure"),
    ],
)
def test_what_does_not_move_as_asked_is_left(effect: Callable[[float], float]) -> None:
    found = search(Curve(effect), 0.4)
    assert found.scale is None
    assert not found.is_reached


@pytest.mark.parametrize("slope", [0.0, 1e-4, float("nan")])
def test_a_dead_slider_has_no_end_to_saturate_at(slope: float) -> None:
    assert search(Curve(lambda s: slope * s), None).scale is None


def test_looks_stay_within_bounds() -> None:
    wide, narrow = Curve(lambda s: s), Curve(lambda s: s, low=0, high=0)
    search(wide, None)
    search(narrow, None)
    assert max(map(abs, wide.looked)) == MOST_SCALE
    assert min(map(abs, narrow.looked)) == LEAST_SCALE
