"""The bank is held against the same one-image model as the other trajectories: see there."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from loba_tui.core.errors import NumericsError, RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.timestep_schedulers.curriculum import (
    get_timestep_scheduler as curriculum,
)
from loba_tui.core.program.timestep_schedulers.linear import get_timestep_scheduler as linear
from loba_tui.core.program.trajectories.bank import BankSize, BankTrajectories
from loba_tui.core.program.trajectories.base import Draw, RolloutPlan
from loba_tui.core.program.trajectories.forward_process import NoiseLevels
from loba_tui.core.program.trajectories.predictions import ForwardCounter
from tests.core.program.trajectories.test_trajectories import (
    CONFIG,
    NOISE,
    SHAPE,
    CurvedContainer,
    OneImageContainer,
    curved_plan,
    make_plan,
)

ddim, euler = SHIPPED.load("noise", "ddim"), SHIPPED.load("noise", "euler")

SIZE = BankSize(num_images=6, num_samples=16, chunk=5)
FRESH = replace(SIZE, num_samples=0)


def predict_with(plan: RolloutPlan) -> Callable[[Draw], dict[str, Tensor]]:
    """Return a teacher of two roles that counts its rows as a method does."""

    def predict(draw: Draw) -> dict[str, Tensor]:
        model: Any = plan.container
        plan.counter.rows += 2 * len(draw.inputs)
        noise = model.predict(
            draw.inputs, draw.timesteps, plan.targets[0].select([0] * len(draw.concepts))
        )
        concepts = torch.tensor(draw.concepts).view(-1, 1, 1, 1)
        return {"noise": noise, "concept": concepts.expand_as(noise).float()}

    return predict


@pytest.fixture
def plan() -> RolloutPlan:
    row = make_plan().targets[0]
    return replace(make_plan(), num_steps=8, targets=[row] * 5)


@pytest.mark.parametrize("size", [SIZE, FRESH], ids=["kept", "fresh"])
@pytest.mark.parametrize("step_noise", [ddim, euler])
def test_rows_are_images_with_the_noise_of_their_timestep(
    plan: RolloutPlan, size: BankSize, step_noise: Callable[..., Any]
) -> None:
    """The model has learned one image, so its rollouts end there; unit noise is what is left."""
    plan = replace(plan, make_noise_scheduler=lambda: step_noise(CONFIG), num_steps=20)
    bank = BankTrajectories(plan, size)
    model: OneImageContainer = plan.container  # type: ignore[assignment]
    for index in range(6):
        draw = bank.draw(index, 0.0)
        noise = model.noise_in(draw.inputs, draw.timesteps)
        late = draw.timesteps > 100  # before that the division enlarges what is left of rounding
        assert noise[late].std() == pytest.approx(1.0, abs=0.15)
        wrong = model.noise_in(draw.inputs, (draw.timesteps - 300).clamp_min(20))
        assert wrong[late].std() > 1.1 * noise[late].std()


def test_flow_matching_mixes_image_and_noise_by_sigma() -> None:
    levels = NoiseLevels(curved_plan("flow_match_euler").make_noise_scheduler())
    clean, noise = torch.ones(2, *SHAPE), torch.full((2, *SHAPE), 5.0)
    inputs, labels = levels.noised(clean, noise, torch.tensor([0, 749]))
    assert labels.tolist() == [1, 750]
    torch.testing.assert_close(inputs[1], torch.full(SHAPE, 0.25 + 0.75 * 5))
    assert levels.at(labels).tolist() == [0, 749]


@pytest.mark.parametrize("noise", NOISE)
def test_every_sampler_can_make_a_bank(noise: str) -> None:
    plan = curved_plan(noise)
    bank = BankTrajectories(plan, SIZE)
    draw = bank.draw(0, 0.0)
    assert draw.inputs.shape == (2, *SHAPE)
    assert bool(draw.inputs.isfinite().all())
    assert bank.teachers(draw, predict_with(plan)).keys() == {"noise", "concept"}


def test_kept_predictions_are_those_of_the_drawn_rows(plan: RolloutPlan) -> None:
    bank, predict = BankTrajectories(plan, SIZE), predict_with(plan)
    for index in range(5):
        draw = bank.draw(index, 0.0)
        kept = bank.teachers(draw, predict)
        for role, direct in predict(draw).items():
            torch.testing.assert_close(kept[role], direct)


def test_all_samples_and_concepts_come_equally_often(plan: RolloutPlan) -> None:
    bank = BankTrajectories(plan, SIZE)
    seen = Counter(sample for index in range(12) for sample in bank.draw(index, 0.0).samples)
    assert set(seen) == set(range(16))
    assert set(seen.values()) == {3}
    fresh = BankTrajectories(plan, replace(FRESH, num_images=10))
    drawn = Counter(concept for index in range(5) for concept in fresh.draw(index, 0.0).concepts)
    assert drawn == dict.fromkeys(range(5), 4)


def test_timesteps_cover_the_range_evenly_or_as_the_density_has_it(plan: RolloutPlan) -> None:
    size = replace(SIZE, num_samples=100)
    even = BankTrajectories(plan, size)
    rising = BankTrajectories(replace(plan, density=linear(clean=0.0, noisy=1.0)), size)

    def timesteps(bank: BankTrajectories) -> Tensor:
        return torch.cat([bank.draw(index, 0.0).timesteps for index in range(25)]).sort().values

    gaps = (timesteps(even) - torch.linspace(5, 995, 100)).abs()
    assert float(gaps.max()) <= 10
    # A density proportional to t has its mean at two thirds.
    assert float(timesteps(rising).float().mean()) == pytest.approx(666, abs=10)
    assert set(rising.draw(0, 0.5).weights.tolist()) == {1.0}


def test_a_density_that_moves_weighs_the_samples_by_what_it_is_now(plan: RolloutPlan) -> None:
    plan = replace(
        plan, density=curriculum(stages=((0.0, (0.0, 0.0, 1.0)), (1.0, (1.0, 0.0, 0.0))))
    )
    bank = BankTrajectories(plan, replace(SIZE, num_samples=100))
    for progress, is_wanted in ((0.0, lambda t: t > 510), (1.0, lambda t: t < 490)):
        draws = [bank.draw(index, progress) for index in range(25)]
        weights = torch.cat([draw.weights for draw in draws])
        wanted = is_wanted(torch.cat([draw.timesteps for draw in draws]))
        assert float(weights[wanted].sum() / weights.sum()) > 0.95
        assert float(weights.mean()) == pytest.approx(1.0, abs=0.1)


def test_every_row_of_the_making_is_counted_once_however_often_it_is_resumed(
    plan: RolloutPlan,
) -> None:
    bank, predict = BankTrajectories(plan, SIZE), predict_with(plan)
    assert int(bank.state()["is_made"]) == 0
    bank.teachers(bank.draw(0, 0.0), predict)
    assert plan.counter.rows == 2 * 8 * 6 + 2 * 16
    bank.teachers(bank.draw(1, 0.0), predict)
    assert plan.counter.rows == 2 * 8 * 6 + 2 * 16

    counter = ForwardCounter(rows=1000)
    again = replace(plan, counter=counter)
    resumed = BankTrajectories(again, SIZE)
    resumed.load_state(bank.state())
    resumed.teachers(resumed.draw(2, 0.0), predict_with(again))
    assert counter.rows == 1000


@pytest.mark.parametrize("size", [SIZE, FRESH], ids=["kept", "fresh"])
def test_a_resumed_bank_is_the_very_same(size: BankSize) -> None:
    plan = curved_plan("euler_ancestral")
    one, other = BankTrajectories(plan, size), BankTrajectories(plan, size)
    for index in range(4):
        one.teachers(one.draw(index, 0.0), predict_with(plan))
    other.load_state(one.state())
    for index in range(4, 8):
        mine, theirs = one.draw(index, 0.5), other.draw(index, 0.5)
        assert torch.equal(mine.inputs, theirs.inputs)
        assert torch.equal(mine.timesteps, theirs.timesteps)
        assert mine.samples == theirs.samples
        kept, made = (bank.teachers(mine, predict_with(plan)) for bank in (one, other))
        assert all(torch.equal(kept[role], made[role]) for role in kept)


def test_two_processes_share_the_making_and_draw_the_halves_of_one_batch() -> None:
    whole = BankTrajectories(curved_plan("ddim", 4), SIZE)
    parts: dict[int, Tensor] = {}
    barrier = threading.Barrier(2)
    drawn: dict[int, list[tuple[Draw, dict[str, Tensor]]]] = {0: [], 1: []}

    def process(rank: int) -> None:
        def gather(part: Tensor) -> Tensor:
            parts[rank] = part
            barrier.wait(timeout=60)
            both = torch.cat([parts[0], parts[1]])
            barrier.wait(timeout=60)
            return both

        plan = curved_plan("ddim", num_processes=2, rank=rank, gather=gather)
        bank = BankTrajectories(plan, SIZE)
        for index in range(3):
            draw = bank.draw(index, 0.0)
            drawn[rank].append((draw, bank.teachers(draw, predict_with(plan))))

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(3):
        draw = whole.draw(index, 0.0)
        kept = whole.teachers(draw, predict_with(whole._plan))
        halves = drawn[0][index], drawn[1][index]
        assert halves[0][0].samples + halves[1][0].samples == draw.samples
        inputs = torch.cat([half.inputs for half, _ in halves])
        torch.testing.assert_close(inputs, draw.inputs)
        for role in kept:
            torch.testing.assert_close(torch.cat([t[role] for _, t in halves]), kept[role])


def test_a_bank_smaller_than_a_batch_is_the_recipes_error(plan: RolloutPlan) -> None:
    with pytest.raises(RecipeError, match="3 are fewer than the 4 rows"):
        BankTrajectories(plan, replace(SIZE, num_samples=3))


class Burnt(CurvedContainer):
    def noise_in(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        return torch.full_like(latents, torch.nan)


def test_a_base_model_that_gives_no_numbers_is_found_while_the_bank_is_made() -> None:
    plan = replace(make_plan(), container=Burnt(torch.zeros(1, *SHAPE)))  # type: ignore[arg-type]
    with pytest.raises(NumericsError, match="images that are not finite"):
        BankTrajectories(plan, SIZE).draw(0, 0.0)
