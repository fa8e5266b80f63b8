"""Learning-rate factors are held against torch's and transformers' own schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as oracles
from transformers import optimization

from loba_tui.core.plugins import SHIPPED

STEPS = 60


def ours(name: str, **options: Any) -> list[float]:
    factor = SHIPPED.load("model", name)(None, STEPS, **options)
    return [factor(step) for step in range(STEPS)]


def theirs(make: Callable[[torch.optim.Optimizer], Any]) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("name", "options", "oracle"),
    [
        ("constant", {}, lambda o: oracles.ConstantLR(o, factor=1.0)),
        (
            "linear_warmup",
            {"warmup_steps": 8},
            lambda o: oracles.LinearLR(o, start_factor=1 / 8, total_iters=7),
        ),
        ("linear", {}, lambda o: oracles.LinearLR(o, 1.0, 1e-12, total_iters=STEPS)),
        ("linear", {"final_factor": 0.3}, lambda o: oracles.LinearLR(o, 1.0, 0.3, STEPS)),
        ("cosine", {"final_factor": 0.1}, lambda o: oracles.CosineAnnealingLR(o, STEPS, 0.1)),
        ("cosine_restarts", {}, lambda o: oracles.CosineAnnealingWarmRestarts(o, STEPS // 3)),
        (
            "cosine_restarts",
            {"cycles": 4, "growth": 2.0, "final_factor": 0.2},
            lambda o: oracles.CosineAnnealingWarmRestarts(o, STEPS // 15, 2, 0.2),
        ),
        ("polynomial", {"power": 3.0}, lambda o: oracles.PolynomialLR(o, STEPS, 3.0)),
        ("exponential", {}, lambda o: oracles.ExponentialLR(o, 0.1 ** (1 / STEPS))),
        ("step", {}, lambda o: oracles.MultiStepLR(o, [30, 45])),
        (
            "step",
            {"drops_at": (0.25, 0.5, 0.75), "drop_factor": 0.5},
            lambda o: oracles.StepLR(o, 15, 0.5),
        ),
        ("one_cycle", {}, lambda o: oracles.OneCycleLR(o, 1.0, total_steps=STEPS + 1)),
        (
            "one_cycle",
            {"rise": 0.5, "shape": "linear"},
            lambda o: oracles.OneCycleLR(
                o, 1.0, total_steps=STEPS + 1, pct_start=0.5, anneal_strategy="linear"
            ),
        ),
        (
            "warmup_stable_decay",
            {"warmup_steps": 0, "shape": "cosine"},
            lambda o: optimization.get_wsd_schedule(o, 0, 12, num_training_steps=STEPS),
        ),
        (
            "warmup_stable_decay",
            {"warmup_steps": 0, "shape": "linear", "final_factor": 0.25},
            lambda o: optimization.get_wsd_schedule(
                o, 0, 12, num_training_steps=STEPS, decay_type="linear", min_lr_ratio=0.25
            ),
        ),
        (
            "inverse_sqrt",
            {"warmup_steps": 0, "timescale": 9},
            lambda o: optimization.get_inverse_sqrt_schedule(o, 0, timescale=9),
        ),
    ],
)  # fmt: skip
def test_a_model_scheduler_matches_its_oracle(name: str, options: Any, oracle: Any) -> None:
    # One-cycle's last step is the run's last; torch counts steps up to the last one's end.
    if name == "one_cycle":
        factor = SHIPPED.load("model", name)(None, STEPS + 1, **options)
        values = [factor(step) for step in range(STEPS)]
    else:
        values = ours(name, **options)
    assert values == pytest.approx(theirs(oracle), abs=1e-7)


WARMED = {
    "linear": lambda o: optimization.get_linear_schedule_with_warmup(o, 10, STEPS),
    "cosine": lambda o: optimization.get_cosine_schedule_with_warmup(o, 10, STEPS),
    "cosine_restarts": lambda o: optimization.get_cosine_with_hard_restarts_schedule_with_warmup(
        o, 10, STEPS, num_cycles=3
    ),
    "polynomial": lambda o: optimization.get_polynomial_decay_schedule_with_warmup(
        o, 10, STEPS, lr_end=0.0, power=2.0
    ),
    "inverse_sqrt": lambda o: optimization.get_inverse_sqrt_schedule(o, 10),
    "linear_warmup": lambda o: optimization.get_constant_schedule_with_warmup(o, 10),
    "warmup_stable_decay": lambda o: optimization.get_wsd_schedule(
        o, 10, 12, num_training_steps=STEPS
    ),
}


@pytest.mark.parametrize("name", WARMED)
def test_a_warm_up_is_transformers_own_without_its_idle_first_step(name: str) -> None:
    shape = {"shape": "cosine"} if name == "warmup_stable_decay" else {}
    values, oracle = ours(name, warmup_steps=10, **shape), theirs(WARMED[name])
    assert oracle[0] == 0  # a step that trains nothing
    assert values[:9] == pytest.approx(oracle[1:10])
    assert values[9] == 1.0
    assert values[10:] == pytest.approx(oracle[10:])


def test_rex_is_the_papers_formula() -> None:
    values = ours("rex")
    for step in range(STEPS):
        progress = step / STEPS
        assert values[step] == pytest.approx((1 - progress) / (0.5 + 0.5 * (1 - progress)))
    assert values[STEPS // 2] > 0.5, "it stays above a straight line"


def test_the_sqrt_decay_of_warmup_stable_decay() -> None:
    values = ours("warmup_stable_decay", warmup_steps=0)
    assert values[:49] == [1.0] * 49
    assert values[48:] == pytest.approx([1 - math.sqrt(k / 12) for k in range(12)])


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", SHIPPED.names("model"))
def test_very_short_runs_have_finite_factors_too(name: str, steps: int) -> None:
    factor = SHIPPED.load("model", name)(None, steps)
    assert all(math.isfinite(factor(step)) and factor(step) >= 0 for step in range(steps + 1))
