from __future__ import annotations

from dataclasses import replace

import pytest

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.training.early_stop import EarlyStop, EfficacyCheck, stop_reason
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.schema import StopWhenSection

SOUND = EfficacyCheck(
    step=10, strength=0.2, alignment=0.9, relative_length=0.25, symmetry=0.95, leakage=0.3,
    verdict="working",
)  # fmt: skip


def checks(*strengths: float, verdict: str = "working", every: int = 10) -> list[EfficacyCheck]:
    return [
        replace(SOUND, step=every * (number + 1), strength=strength, verdict=verdict)  # type: ignore[arg-type]
        for number, strength in enumerate(strengths)
    ]


def early_stop(every: int = 5) -> EarlyStop:
    return EarlyStop(lambda: None, every=every, stop_when=None, processes=Processes())


def test_a_strength_that_is_reached_ends_the_run() -> None:
    wanted = StopWhenSection(strength=0.25)
    assert stop_reason(checks(0.1, 0.2, 0.2, 0.2, 0.2), wanted) is None
    reason = stop_reason(checks(0.1, 0.26), wanted)
    assert reason is not None
    assert reason.outcome == "converged"
    assert "after step 20" in reason.message
    assert stop_reason(checks(0.1, 0.26, verdict="weak"), wanted) is None


def test_a_strength_that_no_longer_grows_ends_the_run() -> None:
    wanted = StopWhenSection(gain=0.05, patience=2)
    assert stop_reason(checks(0.1, 0.2, 0.3, 0.33), wanted) is None
    assert stop_reason(checks(0.3, 0.3), wanted) is None, "two looks are one interval"
    reason = stop_reason(checks(0.1, 0.3, 0.31, 0.312), wanted)
    assert reason is not None
    assert "since step 20" in reason.message
    mixed = [*checks(0.3, verdict="weak"), *checks(0.3, 0.3)]
    assert stop_reason(mixed, wanted) is None, "what was weak has not been sound for long enough"


@pytest.mark.parametrize("verdict", ["dead", "collapsed"])
def test_what_comes_to_nothing_ends_the_run_after_its_time_of_grace(verdict: str) -> None:
    wanted = StopWhenSection(patience=3, dead_after=50)
    dead = checks(*[0.001] * 5, verdict=verdict)
    assert stop_reason(dead[:4], wanted) is None
    reason = stop_reason(dead, wanted)
    assert reason is not None
    assert reason.outcome == verdict
    alive = [*dead[:4], replace(dead[4], verdict="weak")]
    assert stop_reason(alive, wanted) is None


def test_a_run_without_stop_when_goes_on_whatever_is_seen() -> None:
    watched = early_stop()
    watched.checks = checks(*[0.0] * 100, verdict="dead")
    assert watched.reason is None
    assert [step for step in range(1, 16) if watched.is_due(step)] == [5, 10, 15]


def test_looks_come_back_as_they_were() -> None:
    watched, other = early_stop(), early_stop()
    watched.checks = [*checks(0.1, 0.2), replace(SOUND, leakage=None)]
    other.load_state(watched.state())
    assert other.checks == watched.checks
    assert "efficacy_leakage" not in other.checks[-1].metrics()


def test_a_method_without_directions_has_nothing_to_look_at() -> None:
    assert early_stop(every=1).check(1) is None


def test_stopping_without_looks_is_the_recipes_error() -> None:
    concept = {"target": "a", "positive": "b", "negative": "c"}
    with pytest.raises(ProblemsFound, match="stop_when needs efficacy_every"):
        parse_recipe(
            {
                "version": 1,
                "base_model": {"id": "builtin:shapes-xl"},
                "method": {"name": "text_slider", "concepts": [concept]},
                "train": {"stop_when": {"strength": 0.2}},
            },
            plugins=SHIPPED,
        )
