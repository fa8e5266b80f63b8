"""Trajectories are held against a model whose exact prediction is known.

If every image is the same latent μ, the true noise of x_t is (x_t − √ᾱ_t·μ)/√(1−ᾱ_t), and the
noise that DDIM started from is found again at every later point, provided that each point is
labelled with the timestep that its noise level really has.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load, save
from torch import Tensor

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program import randomness
from loba_tui.core.program.timestep_schedulers.linear import get_timestep_scheduler as linear
from loba_tui.core.program.timestep_schedulers.uniform import get_timestep_scheduler as uniform
from loba_tui.core.program.trajectories.base import (
    RolloutPlan,
    Trajectories,
    model_input,
    step_latents,
)
from loba_tui.core.program.trajectories.predictions import ForwardCounter
from loba_tui.core.program.trajectories.restart import RestartTrajectories
from loba_tui.core.program.trajectories.rolling import RollingTrajectories

ddim, euler_ancestral = (SHIPPED.load("noise", name) for name in ("ddim", "euler_ancestral"))

SHAPE = (4, 8, 8)
CONFIG = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).config


FLOW = FlowMatchEulerDiscreteScheduler(shift=3.0).config
NOISE = SHIPPED.names("noise")


@dataclass
class OneImageContainer:
    """A model that has learned one single image."""

    image: Tensor
    device = torch.device("cpu")
    rows: int = 0

    def lay_out_steps(self, scheduler: Any, num_steps: int, latent_shape: object) -> None:
        scheduler.set_timesteps(num_steps)

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


class CurvedContainer(OneImageContainer):
    """A model without a closed form, so that a multistep scheduler's history matters."""

    def noise_in(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        return torch.sin(3 * latents + timesteps.view(-1, 1, 1, 1) / 300)


def curved_plan(noise: str, batch_size: int = 2, **changes: object) -> RolloutPlan:
    """Return a plan with a curved model and a noise scheduler by name."""
    config = FLOW if noise == "flow_match_euler" else CONFIG
    step_noise = SHIPPED.load("noise", noise)
    return replace(
        make_plan(batch_size),
        container=CurvedContainer(torch.zeros(1, *SHAPE)),  # type: ignore[arg-type]
        make_noise_scheduler=lambda: step_noise(config),
        num_steps=6,
        **changes,  # type: ignore[arg-type]
    )


def make_plan(batch_size: int = 4, num_processes: int = 1, rank: int = 0) -> RolloutPlan:
    row = PromptEmbeds(torch.zeros(1, 2, 3), torch.zeros(1, 3))
    return RolloutPlan(
        container=OneImageContainer(torch.full((1, *SHAPE), 0.7)),  # type: ignore[arg-type]
        targets=[row] * 5,
        empty=row,
        make_noise_scheduler=lambda: ddim(CONFIG),
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
    plan = replace(make_plan(), make_noise_scheduler=lambda: euler_ancestral(CONFIG))
    unbroken = RollingTrajectories(plan, 12)
    run(unbroken, plan, range(10))
    state = {name: tensor.clone() for name, tensor in unbroken.state().items()}
    expected = run(unbroken, plan, range(10, 30))

    resumed = RollingTrajectories(plan, 12)
    resumed.load_state(state)
    for mine, theirs in zip(run(resumed, plan, range(10, 30)), expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("noise", ["ddim", "dpmpp_2m"])
def test_a_slot_that_met_a_bad_prediction_begins_anew(noise: str) -> None:
    plan = curved_plan(noise)
    rolling = RollingTrajectories(plan, 4)
    run(rolling, plan, range(3))
    draw = rolling.draw(3, 0.0)
    rolling.advance(draw, 3, torch.full_like(draw.inputs, math.nan))
    rolling.forget_bad()
    assert draw.slots is not None
    state = rolling.state()
    assert all(state["positions"][slot] == 0 for slot in draw.slots)
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert all(inputs.isfinite().all() for inputs in run(rolling, plan, range(4, 40)))


@pytest.mark.parametrize("noise", NOISE)
def test_a_slots_flight_is_the_plain_sampling_loop(noise: str) -> None:
    plan = curved_plan(noise)
    model: CurvedContainer = plan.container  # type: ignore[assignment]
    rolling = RollingTrajectories(plan, 5)
    flights: dict[tuple[int, int], list[tuple[int, Tensor, float]]] = {}
    for index in range(60):
        generations = rolling.state()["generations"]
        draw = rolling.draw(index, 0.0)
        for row, slot in enumerate(draw.slots):
            flight = flights.setdefault((slot, int(generations[slot])), [])
            flight.append((index, draw.inputs[row : row + 1], float(draw.timesteps[row])))
        rolling.advance(draw, index, model.noise_in(draw.inputs, draw.timesteps))

    finished = rolling.state()["generations"]
    whole = [key for key in flights if 0 < key[1] < finished[key[0]]]
    assert len(whole) > 3
    for slot, generation in whole:
        scheduler = plan.new_scheduler()
        assert len(flights[slot, generation]) == len(scheduler.timesteps)
        latents = plan.noise(scheduler, "noise", slot, generation)
        for timestep, (index, inputs, label) in zip(
            scheduler.timesteps, flights[slot, generation], strict=True
        ):
            scaled = model_input(scheduler, latents, timestep)
            assert torch.equal(scaled, inputs)
            assert float(timestep) == label
            noise_pred = model.noise_in(scaled, timestep.reshape(1))
            generator = randomness.generator(plan.seed, "advance", index, slot)
            latents = step_latents(scheduler, noise_pred, timestep, latents, [generator])


@pytest.mark.parametrize("noise", NOISE)
def test_a_restarts_latents_are_the_plain_sampling_loops(noise: str) -> None:
    plan = curved_plan(noise)
    model: CurvedContainer = plan.container  # type: ignore[assignment]
    for index in range(6):
        draw = RestartTrajectories(plan).draw(index, 0.0)
        for row in range(2):
            scheduler = plan.new_scheduler()
            latents = plan.noise(scheduler, "noise", index, row)
            generator = randomness.generator(plan.seed, "advance", index, row)
            reached = []
            for timestep in scheduler.timesteps:
                scaled = model_input(scheduler, latents, timestep)
                reached.append((float(timestep), scaled))
                noise_pred = model.noise_in(scaled, timestep.reshape(1))
                latents = step_latents(scheduler, noise_pred, timestep, latents, [generator])
            assert any(
                label == float(draw.timesteps[row])
                and torch.allclose(scaled, draw.inputs[row : row + 1], atol=1e-4)
                for label, scaled in reached
            )


@pytest.mark.parametrize("noise", NOISE)
def test_histories_come_back_from_a_checkpoint_bit_by_bit(noise: str) -> None:
    plan = curved_plan(noise)
    unbroken = RollingTrajectories(plan, 5)
    run(unbroken, plan, range(7))
    stored = save(unbroken.state())
    expected = run(unbroken, plan, range(7, 30))

    resumed = RollingTrajectories(plan, 5)
    resumed.load_state(load(stored))
    assert save(resumed.state()) == stored
    for mine, theirs in zip(run(resumed, plan, range(7, 30)), expected, strict=True):
        assert torch.equal(mine, theirs)
    assert save(resumed.state()) == save(unbroken.state())


def test_a_pool_of_another_size_is_refused() -> None:
    plan = make_plan()
    state = RollingTrajectories(plan, 12).state()
    with pytest.raises(CorruptError, match="12 latents in flight"):
        RollingTrajectories(plan, 13).load_state(state)


@pytest.mark.parametrize("noise", ["dpmpp_2m", "euler_ancestral"])
def test_two_processes_keep_the_pool_that_one_would_have(noise: str) -> None:
    gathered: list[Tensor] = []
    plan = curved_plan(noise, 4)
    halves = [
        curved_plan(noise, num_processes=2, rank=rank, gather=lambda _: gathered[0])
        for rank in range(2)
    ]
    model: CurvedContainer = plan.container  # type: ignore[assignment]
    one = RollingTrajectories(plan, 6)
    two = [RollingTrajectories(half, 6) for half in halves]
    for index in range(20):
        draw = one.draw(index, 0.0)
        draws = [pool.draw(index, 0.0) for pool in two]
        assert torch.equal(torch.cat([half.inputs for half in draws]), draw.inputs)
        noise_pred = model.noise_in(draw.inputs, draw.timesteps)
        gathered[:] = [noise_pred]
        one.advance(draw, index, noise_pred)
        for pool, half, part in zip(two, draws, noise_pred.chunk(2), strict=True):
            pool.advance(half, index, part)
    assert save(one.state()) == save(two[0].state()) == save(two[1].state())


def test_a_timestep_that_is_visited_twice_weighs_half() -> None:
    plan = curved_plan("heun")
    weights = plan.weights(plan.new_scheduler(), 0.0)
    assert weights.tolist() == [1.0] + [0.5] * 10


def test_a_density_that_is_zero_on_the_whole_grid_is_the_recipes_error() -> None:
    plan = replace(make_plan(), density=uniform(low=0.001, high=0.002))
    with pytest.raises(RecipeError, match="density is 0 at all 20"):
        RollingTrajectories(plan, 12).draw(0, 0.0)
