from __future__ import annotations

from dataclasses import replace

import pytest

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.training.early_stop import Look, Watch, judge_looks
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.schema import StopWhenSection

SOUND = Look(
    step=10, strength=0.2, alignment=0.9, relative_length=0.25, symmetry=0.95, leakage=0.3,
    verdict="working",
)  # fmt: skip


def looks(*strengths: float, verdict: str = "working", every: int = 10) -> list[Look]:
    return [
        replace(SOUND, step=every * (number + 1), strength=strength, verdict=verdict)  # type: ignore[arg-type]
        for number, strength in enumerate(strengths)
    ]


def test_a_strength_that_is_reached_ends_the_run() -> None:
    wanted = StopWhenSection(strength=0.25)
    assert judge_looks(looks(0.1, 0.2, 0.2, 0.2, 0.2), wanted) is None
    ending = judge_looks(looks(0.1, 0.26), wanted)
    assert ending is not None
    assert ending.outcome == "converged"
    assert "after step 20" in ending.message
    assert judge_looks(looks(0.1, 0.26, verdict="weak"), wanted) is None


def test_a_strength_that_no_longer_grows_ends_the_run() -> None:
    wanted = StopWhenSection(gain=0.05, patience=2)
    assert judge_looks(looks(0.1, 0.2, 0.3, 0.33), wanted) is None
    assert judge_looks(looks(0.3, 0.3), wanted) is None, "two looks are one interval"
    ending = judge_looks(looks(0.1, 0.3, 0.31, 0.312), wanted)
    assert ending is not None
    assert "since step 20" in ending.message
    mixed = [*looks(0.3, verdict="weak"), *looks(0.3, 0.3)]
    assert judge_looks(mixed, wanted) is None, "what was weak has not been sound for long enough"


@pytest.mark.parametrize("verdict", ["dead", "collapsed"])
def test_what_comes_to_nothing_ends_the_run_after_its_time_of_grace(verdict: str) -> None:
    wanted = StopWhenSection(patience=3, dead_after=50)
    dead = looks(*[0.001] * 5, verdict=verdict)
    assert judge_looks(dead[:4], wanted) is None
    ending = judge_looks(dead, wanted)
    assert ending is not None
    assert ending.outcome == verdict
    alive = [*dead[:4], replace(dead[4], verdict="weak")]
    assert judge_looks(alive, wanted) is None


def test_a_run_without_stop_when_goes_on_whatever_is_seen() -> None:
    watch = Watch(lambda: None, every=5)
    watch.looks = looks(*[0.0] * 100, verdict="dead")
    assert watch.ending is None
    assert [step for step in range(1, 16) if watch.is_due(step)] == [5, 10, 15]


def test_looks_come_back_as_they_were() -> None:
    watch, other = Watch(lambda: None, every=5), Watch(lambda: None, every=5)
    watch.looks = [*looks(0.1, 0.2), replace(SOUND, leakage=None)]
    other.load_state(watch.state())
    assert other.looks == watch.looks
    assert "efficacy_leakage" not in other.looks[-1].metrics()


def test_a_method_without_directions_has_nothing_to_look_at() -> None:
    assert Watch(lambda: None, every=1).look(1) is None


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
