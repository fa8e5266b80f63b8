"""Trajectories are held against a model whose exact prediction is known.

If every image is the same latent μ, the true noise of x_t is (x_t − √ᾱ_t·μ)/√(1−ᾱ_t), and the
noise that DDIM started from is found again at every later point, provided that each point is
labelled with the timestep that its noise level really has.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from loba_tui.core.associate.containers.base import PromptEmbeds
from loba_tui.core.program import randomness
from loba_tui.core.program.schedulers.noise.ddim import step_noise as ddim
from loba_tui.core.program.schedulers.noise.euler_ancestral import step_noise as euler_ancestral
from loba_tui.core.program.timestep_schedulers.linear import get_timestep_scheduler as linear
from loba_tui.core.program.timestep_schedulers.uniform import get_timestep_scheduler as uniform
from loba_tui.core.program.trajectories import (
    ForwardCounter,
    RestartTrajectories,
    RollingTrajectories,
    RolloutPlan,
    Trajectories,
)

SHAPE = (4, 8, 8)
CONFIG = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).config


@dataclass
class OneImageContainer:
    """A model that has learned one single image."""

    image: Tensor
    device = torch.device("cpu")
    rows: int = 0

    def predict(
        self, latents: Tensor, timesteps: Tensor, embeds: PromptEmbeds, **_: object
    ) -> Tensor:
        self.rows += latents.shape[0]
        assert len(embeds) == latents.shape[0] == timesteps.shape[0]
        return self.noise_in(latents, timesteps)

    def noise_in(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        alphas = DDIMScheduler.from_config(CONFIG).alphas_cumprod[timesteps.long()]
        alphas = alphas.view(-1, 1, 1, 1)
        return (latents - alphas.sqrt() * self.image) / (1 - alphas).sqrt()


def make_plan(batch_size: int = 4, num_processes: int = 1, rank: int = 0) -> RolloutPlan:
    row = PromptEmbeds(torch.zeros(1, 2, 3), torch.zeros(1, 3))
    return RolloutPlan(
        container=OneImageContainer(torch.full((1, *SHAPE), 0.7)),  # type: ignore[arg-type]
        targets=[row] * 5,
        empty=row,
        make_scheduler=lambda: ddim(CONFIG),
        num_steps=20,
        guidance_scale=3.0,
        latent_shape=SHAPE,
        batch_size=batch_size,
        num_processes=num_processes,
        rank=rank,
        seed=0,
        density=uniform(),
        rollout_adapter=nullcontext,
        counter=ForwardCounter(),
    )


def make(name: str, plan: RolloutPlan, num_slots: int = 12) -> Trajectories:
    return RestartTrajectories(plan) if name == "restart" else RollingTrajectories(plan, num_slots)


def run(trajectories: Trajectories, plan: RolloutPlan, indices: range) -> list[Tensor]:
    inputs = []
    for index in indices:
        draw = trajectories.draw(index, 0.0)
        inputs.append(draw.inputs)
        if trajectories.moves:
            model: OneImageContainer = plan.container  # type: ignore[assignment]
            trajectories.advance(draw, index, model.noise_in(draw.inputs, draw.timesteps))
    return inputs


def test_restart_labels_latents_with_the_timestep_of_the_noise_that_they_have() -> None:
    plan = make_plan()
    trajectories = RestartTrajectories(plan)
    model: OneImageContainer = plan.container  # type: ignore[assignment]
    seen = set()
    for index in range(30):
        draw = trajectories.draw(index, 0.0)
        rows = [randomness.normal((1, *SHAPE), plan.seed, "noise", index, row) for row in range(4)]
        began = model.noise_in(torch.cat(rows), torch.full((4,), 999))
        noise = model.noise_in(draw.inputs, draw.timesteps)
        torch.testing.assert_close(noise, began, rtol=1e-2, atol=2e-3)
        off_by_a_bit = model.noise_in(draw.inputs, draw.timesteps - 19)
        assert not torch.allclose(off_by_a_bit, began, rtol=1e-2, atol=2e-3)
        seen |= set(draw.timesteps.tolist())
    assert len(seen) > 10
    assert 999 not in seen, "pure noise itself is never trained on"


def test_the_noise_a_slot_began_with_is_found_again_at_every_step_of_its_flight() -> None:
    plan = make_plan()
    trajectories = RollingTrajectories(plan, 12)
    model: OneImageContainer = plan.container  # type: ignore[assignment]
    noises: dict[int, list[Tensor]] = {}
    last: dict[int, float] = {}
    for index in range(40):
        draw = trajectories.draw(index, 0.0)
        noise = model.noise_in(draw.inputs, draw.timesteps)
        for row, slot in enumerate(draw.slots):
            timestep = float(draw.timesteps[row])
            if slot in last and timestep < last[slot]:
                torch.testing.assert_close(noise[row], noises[slot][-1], rtol=1e-2, atol=2e-3)
            noises.setdefault(slot, []).append(noise[row])
            last[slot] = timestep
        trajectories.advance(draw, index, noise)


def test_rolling_visits_all_timesteps_alike() -> None:
    plan = make_plan()
    trajectories = RollingTrajectories(plan, 20)
    seen: Counter[float] = Counter()
    model: OneImageContainer = plan.container  # type: ignore[assignment]
    for index in range(500):
        draw = trajectories.draw(index, 0.0)
        seen.update(draw.timesteps.tolist())
        trajectories.advance(draw, index, model.noise_in(draw.inputs, draw.timesteps))
    assert len(seen) == 20
    assert max(seen.values()) / min(seen.values()) < 1.5


def test_a_density_picks_the_timesteps_of_restart_and_weighs_the_rows_of_rolling() -> None:
    plan = replace(make_plan(), density=linear(clean=0.0, noisy=1.0))
    restart = [float(RestartTrajectories(plan).draw(i, 0.0).timesteps[0]) for i in range(100)]
    rolling = RollingTrajectories(plan, 20)
    model: OneImageContainer = plan.container  # type: ignore[assignment]
    weighted, weights = [], []
    for index in range(200):
        draw = rolling.draw(index, 0.0)
        weighted.append((draw.timesteps * draw.weights).sum())
        weights.append(draw.weights.sum())
        rolling.advance(draw, index, model.noise_in(draw.inputs, draw.timesteps))
    # A density proportional to t has its mean at two thirds.
    assert sum(restart) / len(restart) == pytest.approx(666, abs=50)
    assert float(sum(weighted) / sum(weights)) == pytest.approx(666, abs=50)
    assert float(sum(weights)) / 800 == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", ["restart", "rolling"])
def test_every_unet_row_is_counted(name: str) -> None:
    plan = make_plan()
    run(make(name, plan), plan, range(5))
    model: OneImageContainer = plan.container  # type: ignore[assignment]
    assert plan.counter.rows == model.rows > 0


def test_two_processes_draw_the_halves_of_one_big_batch() -> None:
    whole = make_plan(batch_size=4)
    halves = [make_plan(2, 2, rank) for rank in range(2)]
    for name in ("restart", "rolling"):
        big = make(name, whole).draw(0, 0.0)
        small = [make(name, half).draw(0, 0.0) for half in halves]
        torch.testing.assert_close(torch.cat([draw.inputs for draw in small]), big.inputs)
        assert small[0].concepts + small[1].concepts == big.concepts
        assert small[0].rows + small[1].rows == big.rows


def test_rolling_goes_on_exactly_from_its_saved_state() -> None:
    plan = replace(make_plan(), make_scheduler=lambda: euler_ancestral(CONFIG))
    unbroken = RollingTrajectories(plan, 12)
    run(unbroken, plan, range(10))
    state = {name: tensor.clone() for name, tensor in unbroken.state().items()}
    expected = run(unbroken, plan, range(10, 30))

    resumed = RollingTrajectories(plan, 12)
    resumed.load_state(state)
    for mine, theirs in zip(run(resumed, plan, range(10, 30)), expected, strict=True):
        assert torch.equal(mine, theirs)
