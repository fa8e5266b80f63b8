"""`train.batch_size: auto` and `base_model.gradient_checkpointing: auto` against free memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
import torch

from loba_tui.client.plans.requirements_text import memory_lines
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.planning import preflight
from loba_tui.core.program.planning.automatic import (
    Settled,
    divide_global_batch,
    leaves_choices,
    settle,
)
from loba_tui.core.program.planning.estimate import Estimator, needed_of
from loba_tui.core.program.planning.estimate_records import Estimate
from loba_tui.core.program.planning.requirements import by_memory
from loba_tui.core.program.train import train
from loba_tui.core.recipe.load import dump_recipe, load_recipe, parse_recipe
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.start_options import StartOptions
from loba_tui.core.run.writer import RunWriter

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PLENTY = 2**50


def recipe_of(train: dict[str, object] | None = None, checkpointing: object = "auto") -> Recipe:
    concept = {"target": "a circle", "positive": "a large circle", "negative": "a small circle"}
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl", "gradient_checkpointing": checkpointing},
            "method": {"name": "text_slider", "rollout_steps": 3, "concepts": [concept]},
            "train": train or {"steps": 2, "batch_size": "auto", "effective_batch_size": 8},
            "proof": {"enabled": False},
            "sample": {"steps": 1, "scales": [0, 1]},
        },
        plugins=SHIPPED,
    )


def chosen(recipe: Recipe) -> tuple[object, int, object]:
    train = recipe.train
    return train.batch_size, train.gradient_accumulation, recipe.base_model.gradient_checkpointing


@dataclass
class Formula:
    """An estimator whose figures are a formula: a step of 8 samples is 1,000 operators.

    A sample takes 10 MiB of activations, and a fifth of that with checkpointing.
    """

    base: Estimate
    device: torch.device = CPU
    flops: float = 1.0
    asked: list[tuple[object, int, object]] = field(default_factory=list)

    def estimate(self, recipe: Recipe) -> Estimate:
        size, pieces, checkpointing = chosen(recipe)
        self.asked.append((size, pieces, checkpointing))
        activations = recipe.train.micro_batch_size * (10 - 8 * (checkpointing is True)) * 2**20
        return replace(
            self.base,
            device=str(self.device),
            memory=replace(
                self.base.memory,
                training=2**20 + activations,
                needed=needed_of(2**20 + activations, self.device),
            ),
            work=replace(
                self.base.work, operators_per_step=1000 * pieces, flops_per_step=self.flops
            ),
        )

    def needs(self, mib: int) -> int:
        return needed_of(mib * 2**20, self.device)


@pytest.fixture(scope="module")
def base() -> Estimate:
    return Estimator(CPU, plugins=SHIPPED).estimate(recipe_of(checkpointing=False))


def settled(recipe: Recipe, estimator: Formula, free: int | None) -> Settled:
    return settle(recipe, cast(Estimator, estimator), free)


def test_with_plenty_of_memory_a_step_is_one_piece(base: Estimate) -> None:
    formula = Formula(base)
    found = settled(recipe_of(), formula, PLENTY)
    assert chosen(found.recipe) == (8, 1, False)
    assert "train.batch_size: 8" in str(found)
    assert "free" in found.reason
    assert set(formula.asked) == {(8, 1, False)}, "to estimate more takes seconds"


def test_it_is_the_largest_that_fits(base: Estimate) -> None:
    recipe, formula = recipe_of(checkpointing=False), Formula(base)
    for size in (4, 2, 1):
        free = formula.needs(1 + 10 * size)
        assert chosen(settled(recipe, formula, free).recipe) == (size, 8 // size, False)
    # A byte less, and the next smaller one is taken.
    free = formula.needs(1 + 10 * 4) - 1
    assert chosen(settled(recipe, formula, free).recipe) == (2, 4, False)


@pytest.mark.parametrize(
    ("device", "flops", "expected"),
    [
        # 1,000 launches are 1e12 operations of a GPU: twice as many launches take longer than to
        # repeat the forward pass of the whole step.
        (CUDA, 1e11, (8, 1, True)),
        (CUDA, 1e14, (4, 2, False)),
        (CPU, 1e8, (8, 1, True)),
        (CPU, 1e11, (4, 2, False)),
    ],
)
def test_launches_are_saved_where_they_take_the_time_and_arithmetic_where_it_does(
    base: Estimate, device: torch.device, flops: float, expected: tuple[object, ...]
) -> None:
    formula = Formula(base, device, flops)
    half, whole_checkpointed = formula.needs(1 + 10 * 4), formula.needs(1 + 2 * 8)
    assert whole_checkpointed < half
    assert chosen(settled(recipe_of(), formula, half).recipe) == expected


def test_what_does_not_fit_is_as_small_as_it_can_be(base: Estimate) -> None:
    formula = Formula(base)
    found = settled(recipe_of(), formula, 1000)
    assert chosen(found.recipe) == (1, 8, True)
    assert "the least there is" in found.reason
    assert len(formula.asked) == 2, "nothing between the most and the least can fit"
    assert chosen(settled(recipe_of(), formula, None).recipe) == (1, 8, True)


def test_checkpointing_alone_is_left_to_what_fits(base: Estimate) -> None:
    recipe, formula = recipe_of({"steps": 2, "batch_size": 8}), Formula(base)
    assert chosen(settled(recipe, formula, PLENTY).recipe) == (8, 1, False)
    assert chosen(settled(recipe, formula, formula.needs(80)).recipe) == (8, 1, True)


def test_what_is_fixed_stays(base: Estimate) -> None:
    recipe = recipe_of({"steps": 2, "batch_size": 4, "gradient_accumulation": 3}, True)
    assert settled(recipe, Formula(base), PLENTY) == Settled(recipe, {}, "")


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"batch_size": "auto"}, "needs effective_batch_size"),
        (
            {"batch_size": "auto", "effective_batch_size": 8, "gradient_accumulation": 2},
            "decides gradient_accumulation",
        ),
        ({"batch_size": 4, "effective_batch_size": 8}, "it is for batch_size: auto"),
        ({"batch_size": 4, "global_batch_size": 6}, "no multiple of batch_size"),
        ({"batch_size": None}, "needs global_batch_size"),
        ({"global_batch_size": 4, "gradient_accumulation": 3}, "does not divide"),
        (
            {"batch_size": "auto", "effective_batch_size": 8, "global_batch_size": 8},
            "leave one out",
        ),
        ({"batch_size": "all"}, "a whole number greater than 0 or auto"),
    ],
)
def test_what_makes_no_sense_is_said(train: dict[str, object], said: str) -> None:
    with pytest.raises(ProblemsFound, match=said):
        recipe_of(train)


def test_a_global_batch_is_divided_by_processes_before_auto_cuts_it(base: Estimate) -> None:
    recipe = divide_global_batch(recipe_of({"batch_size": "auto", "global_batch_size": 8}), 2)
    found = settled(recipe, Formula(base), PLENTY).recipe.train
    assert (found.batch_size, found.gradient_accumulation) == (4, 1)
    assert (found.effective_batch_size, found.global_batch_size) == (None, 8)


def test_a_global_batch_that_cannot_be_shared_is_refused() -> None:
    recipe = recipe_of({"global_batch_size": 8, "gradient_accumulation": 2})
    assert divide_global_batch(recipe, 4).train.batch_size == 1
    for num_data in (3, 8):
        with pytest.raises(RecipeError, match="global_batch_size is 8"):
            divide_global_batch(recipe, num_data)


class StopNever:
    is_set = False


def test_a_run_keeps_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = RunDir.create(tmp_path, "run")
    recipe = recipe_of({"steps": 1, "batch_size": "auto", "effective_batch_size": 4})
    run_dir.recipe.path.write_text(dump_recipe(recipe))
    monkeypatch.setattr(preflight, "free_memory", lambda device: PLENTY)
    with RunWriter.open(run_dir) as writer:
        train(recipe, run_dir, writer, StopNever(), StartOptions(), SHIPPED)

    kept = load_recipe(run_dir.recipe, plugins=SHIPPED)
    assert chosen(kept) == (4, 1, False)
    assert kept.train.effective_batch_size is None
    events = [json.loads(line) for line in run_dir.events.path.read_text().splitlines()]
    found = next(event for event in events if event["event"] == "chosen")
    assert "train.batch_size: 4" in found["keys"]
    assert not leaves_choices(kept), "or another machine would go on with other numbers"


def test_a_plan_says_how_sizes_of_memory_would_be_used(base: Estimate) -> None:
    formula = Formula(base)
    recipe = recipe_of({"steps": 2, "batch_size": "auto", "effective_batch_size": 2}, False)
    sizes = (PLENTY, formula.needs(10))
    found = by_memory(recipe, sizes, cast(Estimator, formula))
    plenty, little = found["rows"]
    assert plenty["chosen"] == "train.batch_size: 2, train.gradient_accumulation: 1"
    assert (plenty["needed"], plenty["remedy"]) == (formula.needs(21), "")
    assert little["chosen"] == "train.batch_size: 1, train.gradient_accumulation: 2"
    assert little["needed"] > little["free"]
    first, second, third = memory_lines(found)
    assert "free on cpu: needs" in first
    assert "with train.batch_size: 2" in first
    assert "with train.batch_size: 1" in second
    assert "base_model.gradient_checkpointing: true (then" in third
