"""The forward process against diffusers' own helpers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr
from torch.nn import functional

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.contract import check_contract
from loba_tui.core.program.objectives.timed_loss import TimedLoss
from loba_tui.core.program.trajectories.forward_process import Diffusion

SDXL = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def scheduler(**options: Any) -> DDPMScheduler:
    return DDPMScheduler(**SDXL, **options)


def diffusion(config: Any, **options: Any) -> Diffusion:
    density = SHIPPED.load("timestep", "uniform")()
    return Diffusion(config, seed=0, density=density, **options)


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_noising_and_targets_are_those_of_diffusers(kind: str, zero_snr: bool) -> None:
    oracle = scheduler(prediction_type=kind, rescale_betas_zero_snr=zero_snr)
    if zero_snr and kind == "epsilon":
        with pytest.raises(RecipeError, match="ends in pure noise"):
            diffusion(oracle.config)
        return
    ours = diffusion(oracle.config)
    clean, noise = latents(5, 4, 8, 8), latents(5, 4, 8, 8).flip(0)
    timesteps = torch.tensor([0, 1, 500, 998, 999])
    noised = ours.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(noised, oracle.add_noise(clean, noise, timesteps))
    expected = {
        "epsilon": noise,
        "v_prediction": oracle.get_velocity(clean, noise, timesteps),
        "sample": clean,
    }
    torch.testing.assert_close(ours.target(clean, noise, timesteps), expected[kind])
    snr = compute_snr(oracle, timesteps)
    torch.testing.assert_close(ours.snr(timesteps).float(), snr, rtol=1e-3, atol=1e-6)
    if zero_snr:
        torch.testing.assert_close(noised[-1], noise[-1])


def test_min_snr_is_the_papers_for_every_prediction() -> None:
    timesteps = torch.arange(0, 1000, 37)
    weighting = SHIPPED.load("weightings", "min_snr")(gamma=5.0)
    # As in diffusers' own training examples.
    snr = compute_snr(scheduler(), timesteps).double()
    clipped = torch.minimum(snr, torch.full_like(snr, 5.0))
    expected = {"epsilon": clipped / snr, "v_prediction": clipped / (snr + 1), "sample": clipped}
    for kind, weights in expected.items():
        ours = diffusion(scheduler(prediction_type=kind).config, weighting=weighting)
        torch.testing.assert_close(ours.weights(timesteps).double(), weights, rtol=1e-3, atol=1e-6)


def test_debiased_is_one_over_root_snr_for_epsilon() -> None:
    timesteps = torch.arange(0, 1000, 37)
    weighting = SHIPPED.load("weightings", "debiased")()
    snr = compute_snr(scheduler(), timesteps)
    ours = diffusion(scheduler().config, weighting=weighting).weights(timesteps)
    torch.testing.assert_close(ours, snr**-0.5, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", SHIPPED.names("weightings"))
def test_a_weighted_loss_means_the_same_whatever_the_model_predicts(name: str) -> None:
    weighting = SHIPPED.load("weightings", name)()
    clean, noise, guess = latents(6, 4, 8, 8), latents(6, 4, 8, 8).flip(0), latents(6, 4, 8, 8)
    timesteps = torch.tensor([30, 100, 300, 500, 800, 990])
    losses = []
    for kind in ("epsilon", "v_prediction", "sample"):
        ours = diffusion(scheduler(prediction_type=kind).config, weighting=weighting)
        # The same mistake, said in each model's own words.
        kept = scheduler().alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noised = ours.add_noise(clean, noise, timesteps)
        wrong_noise = (noised - kept.sqrt() * guess) / (1 - kept).sqrt()
        said = ours.target(guess, wrong_noise, timesteps)
        error = functional.mse_loss(said, ours.target(clean, noise, timesteps), reduction="none")
        losses.append(error.mean(dim=(1, 2, 3)) * ours.weights(timesteps))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-3, atol=1e-5)


def test_draws_depend_on_seed_step_and_row_alone() -> None:
    ours = diffusion(scheduler().config)
    like = latents(4, 4, 8, 8)
    whole, _ = ours.noise(like, 3, (0, 1, 2, 3))
    part, _ = ours.noise(like[2:], 3, (2, 3))
    assert part.equal(whole[2:])
    assert ours.timesteps(3, 0.0, (2, 3)).equal(ours.timesteps(3, 0.9, (0, 1, 2, 3))[2:])
    again, _ = ours.noise(like, 4, (0, 1, 2, 3))
    assert not again.equal(whole)


def test_timesteps_follow_the_density() -> None:
    window = SHIPPED.load("timestep", "window")(width=0.2, begin=0.75, end=0.75)
    ours = Diffusion(scheduler().config, seed=0, density=window)
    drawn = ours.timesteps(0, 0.5, range(200))
    assert 590 <= int(drawn.min()) < 640
    assert 760 < int(drawn.max()) <= 810


def test_noise_changes_add_up_in_order() -> None:
    changes = [
        SHIPPED.load("noising", "offset")(strength=0.5),
        SHIPPED.load("noising", "perturbation")(gamma=0.3),
    ]
    like = latents(3, 4, 16, 16)
    applied, wanted = diffusion(scheduler().config, changes=changes).noise(like, 0, (0, 1, 2))
    plain, _ = diffusion(scheduler().config).noise(like, 0, (0, 1, 2))
    offset = wanted - plain
    torch.testing.assert_close(offset, offset[:, :, :1, :1].expand_as(offset), rtol=0, atol=1e-5)
    more = (applied - wanted) / 0.3
    assert float(more.std()) == pytest.approx(1.0, abs=0.1)
    # The perturbation is of its own: it does not follow the noise that is asked for.
    assert abs(float(torch.corrcoef(torch.stack([more.flatten(), plain.flatten()]))[0, 1])) < 0.1


def test_pyramid_noise_has_unit_variance_and_more_of_the_coarse() -> None:
    change = SHIPPED.load("noising", "pyramid")(discount=0.8, levels=4)
    like = latents(64, 4, 16, 16)
    applied, wanted = diffusion(scheduler().config, changes=[change]).noise(like, 0, range(64))
    assert applied.equal(wanted)
    assert float(applied.std()) == pytest.approx(1.0, abs=0.1)
    plain, _ = diffusion(scheduler().config).noise(like, 0, range(64))

    def coarse(noise: torch.Tensor) -> float:
        return float(functional.avg_pool2d(noise, 8).var())

    assert coarse(applied) > 5 * coarse(plain)


def test_a_scheduled_huber_loss_is_torchs_own_at_every_timestep() -> None:
    loss = TimedLoss(SHIPPED.load("losses", "huber")(delta=0.2, schedule="exponential"))
    given, wanted = latents(2, 5, 4, 8, 8)
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    ours = loss(given, wanted, t)
    for row, delta in enumerate(0.2**t):
        oracle = functional.huber_loss(
            given[row], wanted[row], reduction="none", delta=float(delta)
        )
        torch.testing.assert_close(ours[row], oracle)
    with pytest.raises(RecipeError, match="depends on the timestep"):
        loss(given, wanted)


def test_smooth_l1_is_torchs_own() -> None:
    given, wanted = latents(2, 3, 4, 4, 4)
    ours = SHIPPED.load("losses", "smooth_l1")(beta=0.3)(given, wanted)
    oracle = functional.smooth_l1_loss(given, wanted, reduction="none", beta=0.3)
    torch.testing.assert_close(ours, oracle)


@pytest.mark.parametrize("schedule", ["constant", "exponential"])
def test_every_schedule_of_huber_keeps_the_contract(schedule: str) -> None:
    check_contract("losses", SHIPPED.describe("losses", "huber").path, schedule=schedule)


FLOW = FlowMatchEulerDiscreteScheduler(shift=3.0)


def test_noising_and_targets_of_flow_matching_are_the_straight_line() -> None:
    ours = diffusion(FLOW.config)
    clean, noise = latents(4, 4, 8, 8), latents(4, 4, 8, 8).flip(0)
    timesteps = torch.tensor([1.0, 250.0, 500.0, 1000.0])
    sigmas = (timesteps / 1000).view(-1, 1, 1, 1)
    noised = ours.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(noised, (1 - sigmas) * clean + sigmas * noise)
    target = ours.target(clean, noise, timesteps)
    torch.testing.assert_close(noised - sigmas * target, clean)
    torch.testing.assert_close(ours.normalised(timesteps), timesteps / 1000)
    torch.testing.assert_close(ours.snr(timesteps)[1:3].float(), torch.tensor([9.0, 1.0]))


def test_timesteps_of_flow_matching_follow_the_density_and_are_labels() -> None:
    density = SHIPPED.load("timestep", "window")(width=0.1, begin=1.0)
    ours = Diffusion(FLOW.config, seed=0, density=density)
    drawn = ours.timesteps(0, 0.0, range(200))
    assert drawn.min() >= 900
    assert drawn.max() <= 1000
    assert len(set(drawn.tolist())) > 50


def test_a_weighting_of_flow_matching_is_one_of_the_error_in_the_image() -> None:
    ours = diffusion(FLOW.config, weighting=SHIPPED.load("weightings", "min_snr")(gamma=5.0))
    timesteps = torch.tensor([100.0, 500.0, 900.0])
    sigma = (timesteps / 1000).double()
    snr = ((1 - sigma) / sigma) ** 2
    torch.testing.assert_close(ours.weights(timesteps).double(), snr.clamp(max=5) * sigma**2)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_a_moved_image_is_said_with_the_same_noise(kind: str) -> None:
    config = FLOW.config if kind == "flow" else scheduler(prediction_type=kind).config
    ours = diffusion(config)
    clean, noise = latents(3, 4, 8, 8), latents(3, 4, 8, 8).flip(0)
    change = 0.1 * latents(3, 4, 8, 8).flip(1)
    timesteps = torch.tensor([1, 400, 900])
    found = ours.with_image_moved(ours.target(clean, noise, timesteps), change, timesteps)
    torch.testing.assert_close(found, ours.target(clean + change, noise, timesteps))
