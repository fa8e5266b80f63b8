"""Densities over timesteps are held against samples of the distributions that they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_snr
from scipy import stats
from torch import Tensor

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED

GRID = torch.linspace(0, 1, 20_001, dtype=torch.float64)


def density(name: str, progress: float = 0.0, **options: Any) -> Callable[[Tensor], Tensor]:
    made = SHIPPED.load("timestep", name)(**options)
    return lambda t: made(torch.as_tensor(t), progress)


def uniforms() -> Tensor:
    return torch.rand(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def flow_shift(t: Tensor, shift: float) -> Tensor:
    return shift * t / (1 + (shift - 1) * t)


def logit_normal(mean: float, std: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return compute_density_for_timestep_sampling(
        "logit_normal", 400_000, logit_mean=mean, logit_std=std, generator=generator
    )


def mode(scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return compute_density_for_timestep_sampling(
        "mode", 400_000, mode_scale=scale, generator=generator
    )


SAMPLED: list[tuple[str, dict[str, Any], Callable[[], Tensor]]] = [
    ("uniform", {}, uniforms),
    ("uniform", {"shift": 3.0}, lambda: flow_shift(uniforms(), 3.0)),
    ("logit_normal", {}, lambda: logit_normal(0.0, 1.0)),
    ("logit_normal", {"mean": 0.8, "std": 0.5}, lambda: logit_normal(0.8, 0.5)),
    (
        "logit_normal",
        {"mean": -0.5, "shift": 2.5},
        lambda: flow_shift(logit_normal(-0.5, 1.0), 2.5),
    ),
    ("mode", {}, lambda: mode(1.29)),
    ("mode", {"scale": -0.7}, lambda: mode(-0.7)),
    ("mode", {"scale": 0.8, "shift": 0.5}, lambda: flow_shift(mode(0.8), 0.5)),
    ("cosmap", {}, lambda: 1 - 1 / (torch.tan(math.pi / 2 * uniforms()) + 1)),
    ("beta", {}, lambda: torch.tensor(stats.beta(0.6, 0.6).rvs(400_000, random_state=0))),
    (
        "beta",
        {"alpha": 3, "beta": 1.5, "shift": 1.5},
        lambda: flow_shift(
            torch.tensor(stats.beta(3, 1.5).rvs(400_000, random_state=0)), 1.5
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "sample"), SAMPLED)
def test_a_density_is_that_of_its_samples(
    name: str, options: dict[str, Any], sample: Callable[[], Tensor]
) -> None:
    height = density(name, **options)(GRID)
    # Beta's ends are cut off at half a timestep, where it is infinite.
    assert float(torch.trapezoid(height, GRID)) == pytest.approx(1, abs=0.01)
    counts = torch.histc(sample().double(), bins=20, min=0, max=1) / 400_000
    for number, count in enumerate(counts.tolist()):
        inside = slice(1000 * number, 1000 * number + 1001)
        mass = float(torch.trapezoid(height[inside], GRID[inside]))
        assert mass == pytest.approx(count, abs=0.004)


def test_beta_and_cosmap_are_their_closed_forms() -> None:
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    expected = torch.tensor(stats.beta(2.0, 5.0).pdf(t.numpy()))
    torch.testing.assert_close(density("beta", alpha=2.0, beta=5.0)(t), expected)
    torch.testing.assert_close(
        density("cosmap")(t), 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t**2)
    )


def test_a_range_of_uniform_holds_after_the_shift() -> None:
    found = density("uniform", low=0.2, high=0.6, shift=4.0)(GRID)
    assert bool(((found > 0) == ((GRID >= 0.2) & (GRID <= 0.6))).all())


def test_mode_refuses_a_scale_that_has_no_density() -> None:
    for scale in (-1.1, 2.0):
        with pytest.raises(RecipeError, match="scale"):
            density("mode", scale=scale)


def test_sigmoid_is_a_soft_threshold() -> None:
    found = density("sigmoid", midpoint=0.3, steepness=20.0)(torch.tensor([0.0, 0.3, 1.0]))
    assert found.tolist() == pytest.approx([0.0025, 0.5, 1.0], abs=1e-3)
    mirrored = density("sigmoid", midpoint=0.3, steepness=-20.0)(torch.tensor([0.0, 0.3, 1.0]))
    assert (found + mirrored).tolist() == pytest.approx([1, 1, 1])


def test_snr_weighted_follows_the_snr_that_diffusers_computes() -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    steps = torch.arange(1000)
    snr, t = compute_snr(scheduler, steps).double(), steps.double() / 999
    for weighting, expected in {
        "min_snr": snr.clamp_max(5) / snr,
        "debiased": snr.rsqrt().clamp_max(5),
        "p2": 1 / (1 + snr),
    }.items():
        found = density("snr_weighted", weighting=weighting)(t)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_snr_weighted_of_flow_matching() -> None:
    t = torch.tensor([0.25, 0.5, 0.8], dtype=torch.float64)
    found = density("snr_weighted", weighting="min_snr", gamma=1.0, process="flow")(t)
    snr = ((1 - t) / t) ** 2
    torch.testing.assert_close(found, torch.minimum(snr, torch.tensor(1.0)) / snr)


@pytest.mark.parametrize(("progress", "low"), [(0.0, 0.7), (0.5, 0.35), (1.0, 0.0)])
def test_a_window_travels_from_noisy_to_clean(progress: float, low: float) -> None:
    found = density("window", progress, width=0.3)(GRID)
    inside = GRID[found > 0]
    assert float(inside.min()) == pytest.approx(low, abs=1e-4)
    assert float(inside.max()) == pytest.approx(low + 0.3, abs=1e-4)


STAGES = [[0.0, [0, 1, 2]], [0.5, [1, 1, 1]], [0.8, [4, 0]]]


@pytest.mark.parametrize(
    ("progress", "smooth", "expected"),
    [
        (0.0, True, [0, 0.5, 1, 2]),
        (0.25, True, [0.5, 0.75, 1, 1.5]),
        (0.25, False, [0, 0.5, 1, 2]),
        (0.5, True, [1, 1, 1, 1]),
        (0.8, True, [4, 3, 2, 0]),
        (1.0, False, [4, 3, 2, 0]),
    ],
)
def test_a_curriculum_goes_through_its_points(
    progress: float, smooth: bool, expected: list[float]
) -> None:
    t = torch.tensor([0, 0.25, 0.5, 1])
    found = density("curriculum", progress, stages=STAGES, smooth=smooth)(t)
    assert found.tolist() == pytest.approx(expected)


def test_one_weight_alone_is_a_constant() -> None:
    found = density("curriculum", 0.3, stages=[[0.0, [2]]])(GRID[:5])
    assert found.tolist() == [2.0] * 5


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "begin after"),
        ([[0.5, [1]], [0.5, [1]]], "begin after"),
        ([[0.0, [0, 0]]], "above 0"),
        ([[0.0, []]], "above 0"),
    ],
)
def test_a_curriculum_that_cannot_be_is_refused(stages: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        density("curriculum", stages=stages)


def test_stages_can_be_written_in_a_recipe() -> None:
    assert not SHIPPED.check_options("timestep", "curriculum", {"stages": STAGES})
    wrong = {"stages": [[0.0, [0, -1]]]}
    (problem,) = SHIPPED.check_options("timestep", "curriculum", wrong)
    assert problem.key_path == ("stages", 0, 1, 1)
