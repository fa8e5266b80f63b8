"""A pool of latents in flight: noisy latents at a tenth of the forwards of fresh rollouts.

The latents are spread over all timesteps. Some are trained on, advanced by one sampling step with
predictions that the teacher made anyway, and begin anew when they arrive. They have the same
marginal distribution over t as those of `RestartTrajectories`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from loba_tui.core.associate.device_copies import rows_of, sent
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import CorruptError
from loba_tui.core.program import randomness
from loba_tui.core.program.trajectories.base import (
    Draw,
    RolloutPlan,
    Trajectories,
    model_input,
    step_latents,
)
from loba_tui.core.program.trajectories.row_steps import row_steps
from loba_tui.core.program.trajectories.scheduler_history import (
    export_history,
    fresh_copy,
    import_history,
)

_HISTORY = "history"


class RollingTrajectories(Trajectories):
    """A pool of latents in flight, each at its own point of its own trajectory.

    Each slot has a scheduler of its own, so that multistep ones remember its trajectory and no
    other. Every process holds the whole pool. It predicts for its own rows of the global batch; the
    predictions are gathered, and all slots advance alike everywhere.
    """

    moves = True

    def __init__(self, plan: RolloutPlan, num_slots: int) -> None:
        self._plan = plan
        self._num_slots = max(num_slots, plan.global_batch_size)
        self._grid = plan.new_scheduler()
        # Heun takes two predictions a step, and PNDM one more than steps.
        self._length = len(self._grid.timesteps)
        self._positions = torch.zeros(self._num_slots, dtype=torch.int64)
        self._generations = torch.zeros(self._num_slots, dtype=torch.int64)
        self._rows = row_steps(self._grid)
        # Each has its own memory of its trajectory, where the sampler has one.
        num_schedulers = 0 if self._rows is not None else self._num_slots
        self._schedulers = [fresh_copy(self._grid) for _ in range(num_schedulers)]
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

    def _pool(self) -> Tensor:
        """Return the latents (num_slots, C, H, W), evenly staggered over the grid at first."""
        if self._latents is None:
            self._latents = torch.cat([self._fresh_noise(slot) for slot in range(self._num_slots)])
            self._warm_up(self._latents)
        return self._latents

    @torch.no_grad()
    def _warm_up(self, latents: Tensor) -> None:
        plan = self._plan
        goals = [slot * self._length // self._num_slots for slot in range(self._num_slots)]
        for position in range(max(goals)):
            slots = [slot for slot in range(self._num_slots) if goals[slot] > position]
            inputs, labels = self._inputs(latents, slots)
            prompts = PromptEmbeds.cat([plan.targets[self._concept_of(slot)] for slot in slots])
            self._step_slots(latents, slots, plan.guided(inputs, labels, prompts), -1 - position)

    def _timestep(self, slot: int) -> Tensor:
        timestep: Tensor = self._grid.timesteps[int(self._positions[slot])]
        return timestep

    def _inputs(self, latents: Tensor, slots: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the slots' latents as the model expects them, and their (B,) timesteps."""
        timesteps = [self._timestep(slot) for slot in slots]
        labels = sent(torch.stack(timesteps), latents.device)
        if self._rows is not None:
            return self._rows.inputs(rows_of(latents, slots), self._positions[slots]), labels
        inputs = [
            model_input(self._schedulers[slot], latents[[slot]], timestep)
            for slot, timestep in zip(slots, timesteps, strict=True)
        ]
        return torch.cat(inputs), labels

    def _step_slots(
        self, latents: Tensor, slots: Sequence[int], noise_pred: Tensor, index: int
    ) -> None:
        """Move slots one step on in place; noise_pred is (B, C, H, W), a row for each."""
        seed = self._plan.seed
        generators = [randomness.generator(seed, "advance", index, slot) for slot in slots]
        if self._rows is not None:
            moving, places = rows_of(latents, slots), self._positions[slots]
            stepped = self._rows.step(moving, noise_pred, places, generators)
            _put(latents, slots, stepped.to(latents.dtype))
            self._positions[slots] += 1
            return
        for row, slot in enumerate(slots):
            # Schedulers keep what they are given: no views of the pool, which changes in place.
            scheduler, timestep, one = self._schedulers[slot], self._timestep(slot), latents[[slot]]
            # It takes note of this call, which another process made if the row is another's.
            model_input(scheduler, one, timestep)
            stepped = step_latents(scheduler, noise_pred[[row]], timestep, one, [generators[row]])
            latents[[slot]] = stepped.to(latents.dtype)
            self._positions[slot] += 1

    def _picked(self, index: int) -> list[int]:
        """Return the slots of a micro-step, one for each row of the global batch."""
        plan = self._plan
        return randomness.weighted_choice(
            torch.ones(self._num_slots), plan.global_batch_size, plan.seed, "slots", index
        )

    def draw(self, index: int, progress: float) -> Draw:
        """Pick slots at random, without repetition in a micro-step.

        Every slot passes through every timestep, so picking cannot prefer any of them: the density
        weighs the rows' losses instead.
        """
        plan, latents = self._plan, self._pool()
        picked = self._picked(index)
        rows = plan.my_rows()
        slots = [picked[row] for row in rows]
        inputs, timesteps = self._inputs(latents, slots)
        weights = plan.weights(self._grid, progress)
        at_slots = (weights / weights.mean())[self._positions[slots]]
        return Draw(
            inputs=inputs,
            timesteps=timesteps,
            weights=sent(at_slots, inputs.device, inputs.dtype),
            concepts=[self._concept_of(slot) for slot in slots],
            rows=rows,
            slots=slots,
        )

    @torch.no_grad()
    def advance(self, draw: Draw, index: int, noise_pred: Tensor) -> None:
        """Advance the drawn slots by one sampling step; those that arrive begin anew."""
        latents, slots = self._pool(), self._picked(index)
        self._step_slots(latents, slots, self._plan.gather(noise_pred), index)
        self._begin_anew([slot for slot in slots if self._positions[slot] >= self._length])

    def forget_bad(self) -> None:
        """Begin those slots anew that a bad prediction has left without finite latents.

        With `on_nan: skip` one would spoil every later step that draws it.
        """
        are_finite = self._pool().isfinite().flatten(1).all(1).tolist()
        self._begin_anew([slot for slot, is_finite in enumerate(are_finite) if not is_finite])

    def _begin_anew(self, slots: Sequence[int]) -> None:
        if not slots:
            return
        for slot in slots:
            self._positions[slot] = 0
            self._generations[slot] += 1
            if self._schedulers:
                self._schedulers[slot] = fresh_copy(self._grid)
        _put(self._pool(), slots, torch.cat([self._fresh_noise(slot) for slot in slots]))

    def state(self) -> dict[str, Tensor]:
        """Return the pool: latents, positions, how often each slot began anew, and its history."""
        state = {
            "latents": self._pool().cpu().clone(),
            "positions": self._positions.clone(),
            "generations": self._generations.clone(),
        }
        for slot, scheduler in enumerate(self._schedulers):
            for name, tensor in export_history(scheduler, self._grid).items():
                state[f"{_HISTORY}.{slot}.{name}"] = tensor
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the pool back.

        Raises:
            CorruptError: It is the pool of another recipe.
        """
        if state["positions"].shape != self._positions.shape:
            raise CorruptError(
                f"the checkpoint has {len(state['positions'])} latents in flight, and this recipe"
                f" {self._num_slots}"
            )
        device = self._plan.container.device
        self._latents = state["latents"].to(device, copy=True)
        self._positions = state["positions"].clone()
        self._generations = state["generations"].clone()
        histories: list[dict[str, Tensor]] = [{} for _ in range(self._num_slots)]
        for name, tensor in state.items():
            head, *rest = name.split(".", 2)
            if head == _HISTORY:
                histories[int(rest[0])][rest[1]] = tensor
        if self._rows is None:
            self._schedulers = [import_history(self._grid, each, device) for each in histories]


def _put(latents: Tensor, slots: Sequence[int], rows: Tensor) -> None:
    latents.index_copy_(0, sent(torch.tensor(slots), latents.device), rows)
