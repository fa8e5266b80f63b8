"""Where a method's noisy latents come from: the model's own sampling trajectories.

Both classes draw latents x_t together with the timestep label t that belongs to their noise level
(the LECO family labels them 19 to 42 train timesteps off), and count every UNet row that they cost.

- `RestartTrajectories`: the reference algorithm of Concept Sliders (Gandikota et al. 2023,
  https://arxiv.org/abs/2311.12092): a fresh rollout from pure noise for every step.
- `RollingTrajectories`: a pool of latents in flight, spread over all timesteps. Some are trained
  on, advanced by one sampling step with predictions that the teacher made anyway, and begin anew
  when they arrive. The same marginal distribution over t at a tenth of the forwards.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer, PromptEmbeds
from loba_tui.core.program import randomness

TimestepDensity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Draw:
    """The rows of one micro-step on this process.

    Attributes:
        inputs: (B, C, H, W) latents scaled as the model expects them at `timesteps`.
        timesteps: (B,) the label of each row's noise level.
        concepts: Index of each row's concept, length B.
        rows: Position of each row in the global batch of all processes, length B.
        slots: Pool slot of each row; empty where latents are used once.
        weights: (B,) weight of each row's loss, 1 in the mean over all timesteps.
    """

    inputs: Tensor
    timesteps: Tensor
    weights: Tensor
    concepts: list[int]
    rows: list[int]
    slots: list[int]


@dataclass
class ForwardCounter:
    """UNet rows that were really computed; a row with its backward counts as two."""

    rows: int = 0


class Trajectories(Protocol):
    """A source of noisy latents."""

    def draw(self, index: int, progress: float) -> Draw:
        """Return this process's rows of micro-step `index`; `progress` of the run is in [0, 1]."""
        ...

    @property
    def moves(self) -> bool:
        """Whether `advance` wants a guided prediction for the drawn rows."""
        ...

    def advance(self, draw: Draw, index: int, noise_pred: Tensor) -> None:
        """Move the drawn latents one sampling step on, given their guided prediction."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what `load_state` needs to go on exactly from here."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take a state that `state` returned."""
        ...


@dataclass(frozen=True)
class RolloutPlan:
    """What trajectories are made of.

    Attributes:
        container: The model.
        targets: One prompt's embeddings per concept, (1, T, D) each: what is rolled out.
        empty: The unconditional embeddings, one row.
        make_scheduler: Returns a fresh diffusers scheduler of the recipe's noise drop-in.
        num_steps: Sampling steps N of a whole rollout.
        guidance_scale: Classifier-free guidance of the rollout.
        latent_shape: (C, H, W).
        batch_size: Rows per micro-step and process.
        num_processes: Processes that share the global batch.
        rank: This process's place among them.
        seed: The run's seed.
        density: Which timesteps to prefer.
        rollout_adapter: Context of rollouts: the adapter off, or at some strength.
        counter: Counts UNet rows.
        gather: Collects a (B, …) tensor from all processes in rank order.
    """

    container: ModelContainer
    targets: Sequence[PromptEmbeds]
    empty: PromptEmbeds
    make_scheduler: Callable[[], Any]
    num_steps: int
    guidance_scale: float
    latent_shape: tuple[int, ...]
    batch_size: int
    num_processes: int
    rank: int
    seed: int
    density: TimestepDensity
    rollout_adapter: Callable[[], AbstractContextManager[None]]
    counter: ForwardCounter
    gather: Callable[[Tensor], Tensor] = lambda tensor: tensor

    @property
    def global_batch_size(self) -> int:
        """Rows of one micro-step over all processes."""
        return self.batch_size * self.num_processes

    def my_rows(self) -> list[int]:
        """Return this process's rows of the global batch."""
        return list(range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size))

    def new_scheduler(self) -> Any:
        """Return a scheduler with its grid of `num_steps` timesteps laid out."""
        scheduler = self.make_scheduler()
        scheduler.set_timesteps(self.num_steps)
        return scheduler

    def noise(self, scheduler: Any, *key: int | str) -> Tensor:
        """Return (1, C, H, W) latents of pure noise in the scheduler's own scale."""
        noise = randomness.normal((1, *self.latent_shape), self.seed, *key)
        return noise.to(self.container.device) * float(scheduler.init_noise_sigma)

    def weights(self, scheduler: Any, progress: float) -> Tensor:
        """Return the density's (N,) weights over the sampling grid."""
        train_timesteps = scheduler.config.num_train_timesteps
        grid = scheduler.timesteps.double().cpu() / (train_timesteps - 1)
        return self.density(grid.clamp(0, 1), progress)

    @torch.no_grad()
    def guided(self, inputs: Tensor, timesteps: Tensor, prompts: PromptEmbeds) -> Tensor:
        """Return classifier-free guided predictions (B, C, H, W) of `inputs`."""
        num_rows = inputs.shape[0]
        embeds = PromptEmbeds.cat([self.empty.select([0] * num_rows), prompts])
        self.counter.rows += 2 * num_rows
        empty, conditional = self.container.predict(
            torch.cat([inputs, inputs]), torch.cat([timesteps, timesteps]), embeds
        ).chunk(2)
        return empty + self.guidance_scale * (conditional - empty)


class RestartTrajectories:
    """A rollout from pure noise for every step, to a random point of the sampling grid.

    As in the reference, one micro-step has one concept and one timestep; rows differ in noise.
    """

    def __init__(self, plan: RolloutPlan) -> None:
        self._plan = plan

    @torch.no_grad()
    def draw(self, index: int, progress: float) -> Draw:
        """Roll a fresh batch out to one random timestep."""
        plan = self._plan
        scheduler = plan.new_scheduler()
        concept = randomness.integer(len(plan.targets), plan.seed, "concept", index)
        weights = plan.weights(scheduler, progress)
        if plan.num_steps > 1:
            weights[0] = 0  # k ~ U{1..N−1}: pure noise itself is never trained on
        (stop,) = randomness.weighted_choice(weights, 1, plan.seed, "stop", index)

        rows = plan.my_rows()
        latents = torch.cat([plan.noise(scheduler, "noise", index, row) for row in rows])
        generators = [randomness.generator(plan.seed, "advance", index, row) for row in rows]
        prompts = plan.targets[concept].select([0] * len(rows))
        with plan.rollout_adapter():
            for timestep in scheduler.timesteps[:stop]:
                inputs = scheduler.scale_model_input(latents, timestep)
                labels = timestep.to(latents.device).repeat(len(rows))
                noise_pred = plan.guided(inputs, labels, prompts)
                latents = _step(scheduler, noise_pred, timestep, latents, generators)
        timestep = scheduler.timesteps[stop]
        return Draw(
            inputs=scheduler.scale_model_input(latents, timestep),
            timesteps=timestep.to(latents.device).repeat(len(rows)),
            weights=torch.ones(len(rows), device=latents.device),
            concepts=[concept] * len(rows),
            rows=rows,
            slots=[],
        )

    moves = False

    def advance(self, draw: Draw, index: int, noise_pred: Tensor) -> None:
        """Do nothing: the next draw begins from noise."""

    def state(self) -> dict[str, Tensor]:
        """Return nothing: every draw is a function of the seed and the step."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take nothing back."""


class RollingTrajectories:
    """A pool of latents in flight, each at its own point of its own trajectory.

    Every process holds the whole pool; each advances its own rows of the global batch, and the
    results are gathered, so that the pool stays the same everywhere.
    """

    def __init__(self, plan: RolloutPlan, num_slots: int) -> None:
        self._plan = plan
        self._num_slots = max(num_slots, plan.global_batch_size)
        self._grid = plan.new_scheduler()
        self._positions = torch.zeros(self._num_slots, dtype=torch.int64)
        self._generations = torch.zeros(self._num_slots, dtype=torch.int64)
        self._latents: Tensor | None = None

    def _concept_of(self, slot: int) -> int:
        # A permutation per generation of the pool keeps the concepts evenly represented.
        order = torch.randperm(
            len(self._plan.targets),
            generator=randomness.generator(
                self._plan.seed, "concepts", slot // len(self._plan.targets), self._generation(slot)
            ),
        )
        return int(order[slot % len(self._plan.targets)])

    def _generation(self, slot: int) -> int:
        return int(self._generations[slot])

    def _fresh_noise(self, slot: int) -> Tensor:
        return self._plan.noise(self._grid, "noise", slot, self._generation(slot))

    @torch.no_grad()
    def _warm_up(self) -> Tensor:
        """Roll the slots out to evenly staggered positions of the sampling grid."""
        plan = self._plan
        num_steps = plan.num_steps
        latents = torch.cat([self._fresh_noise(slot) for slot in range(self._num_slots)])
        goals = [slot * num_steps // self._num_slots for slot in range(self._num_slots)]
        for position in range(max(goals)):
            slots = [slot for slot in range(self._num_slots) if goals[slot] > position]
            inputs, labels = self._inputs(latents[slots], [position] * len(slots))
            prompts = PromptEmbeds.cat([plan.targets[self._concept_of(slot)] for slot in slots])
            with plan.rollout_adapter():
                noise_pred = plan.guided(inputs, labels, prompts)
            latents[slots] = self._advanced(latents[slots], slots, noise_pred, -1 - position)
            self._positions[slots] += 1
        return latents

    def _inputs(self, latents: Tensor, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        timesteps = [self._grid.timesteps[position] for position in positions]
        inputs = [
            copy.copy(self._grid).scale_model_input(latents[row : row + 1], timestep)
            for row, timestep in enumerate(timesteps)
        ]
        return torch.cat(inputs), torch.stack(timesteps).to(latents.device)

    def _advanced(
        self, latents: Tensor, slots: Sequence[int], noise_pred: Tensor, index: int
    ) -> Tensor:
        """Return (B, C, H, W) latents one sampling step on, each from its slot's position."""
        stepped = []
        for row, slot in enumerate(slots):
            timestep = self._grid.timesteps[int(self._positions[slot])]
            # A copy finds its own place on the grid by the timestep, whatever ran before.
            scheduler = copy.copy(self._grid)
            scheduler.scale_model_input(latents[row : row + 1], timestep)
            generator = randomness.generator(self._plan.seed, "advance", index, slot)
            one = slice(row, row + 1)
            stepped.append(_step(scheduler, noise_pred[one], timestep, latents[one], [generator]))
        return torch.cat(stepped)

    def draw(self, index: int, progress: float) -> Draw:
        """Pick slots at random, without repetition in a micro-step.

        Every slot passes through every timestep, so picking cannot prefer any of them: the density
        weighs the rows' losses instead.
        """
        plan = self._plan
        if self._latents is None:
            self._latents = self._warm_up()
        picked = randomness.weighted_choice(
            torch.ones(self._num_slots), plan.global_batch_size, plan.seed, "slots", index
        )
        rows = plan.my_rows()
        slots = [picked[row] for row in rows]
        positions = [int(self._positions[slot]) for slot in slots]
        inputs, timesteps = self._inputs(self._latents[slots], positions)
        weights = plan.weights(self._grid, progress)
        return Draw(
            inputs=inputs,
            timesteps=timesteps,
            weights=(weights / weights.mean())[positions].to(inputs),
            concepts=[self._concept_of(slot) for slot in slots],
            rows=rows,
            slots=slots,
        )

    moves = True

    @torch.no_grad()
    def advance(self, draw: Draw, index: int, noise_pred: Tensor) -> None:
        """Advance the drawn slots by one sampling step; those that arrive begin anew."""
        assert self._latents is not None
        plan = self._plan
        mine = self._advanced(self._latents[draw.slots], draw.slots, noise_pred, index)
        latents = plan.gather(mine)
        slots = plan.gather(torch.tensor(draw.slots, device=mine.device)).tolist()
        self._latents[slots] = latents.to(self._latents.dtype)
        for slot in slots:
            self._positions[slot] += 1
            if self._positions[slot] >= plan.num_steps:
                self._positions[slot] = 0
                self._generations[slot] += 1
                self._latents[slot] = self._fresh_noise(slot)[0]

    def state(self) -> dict[str, Tensor]:
        """Return the pool: latents, positions and how often each slot began anew."""
        if self._latents is None:
            self._latents = self._warm_up()
        return {
            "latents": self._latents.cpu(),
            "positions": self._positions.clone(),
            "generations": self._generations.clone(),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the pool back."""
        self._latents = state["latents"].to(self._plan.container.device)
        self._positions = state["positions"].clone()
        self._generations = state["generations"].clone()


def _step(
    scheduler: Any,
    noise_pred: Tensor,
    timestep: Tensor,
    latents: Tensor,
    generators: list[torch.Generator],
) -> Tensor:
    """Return latents one step on; ancestral schedulers draw from the rows' own generators."""
    arguments: dict[str, Any] = {"return_dict": False}
    if "generator" in inspect.signature(scheduler.step).parameters:
        arguments["generator"] = generators
    stepped: Tensor = scheduler.step(noise_pred, timestep, latents, **arguments)[0]
    return stepped
