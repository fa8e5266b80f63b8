"""Where a method's noisy latents come from: the model's own sampling trajectories.

Latents x_t are drawn together with the timestep label t that belongs to their noise level (the LECO
family labels them 19 to 42 train timesteps off), and every UNet row that they cost is counted.

Here is what all sources have in common; each has a module of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.device_copies import sent
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.schedules import is_flow_matching
from loba_tui.core.errors import RecipeError
from loba_tui.core.program import randomness
from loba_tui.core.program.trajectories.predictions import ForwardCounter
from loba_tui.core.program.trajectories.timestep_density import TimestepDensity


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
        samples: Which of a bank's samples each row is; empty where latents are used once.
    """

    inputs: Tensor
    timesteps: Tensor
    weights: Tensor
    concepts: list[int]
    rows: list[int]
    slots: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)


Teachers = Callable[[Draw], dict[str, Tensor]]
"""The frozen base's predictions (B, C, H, W) for a draw, by role.

What it returns depends on inputs, timesteps, concepts and, where there are any, samples alone.
"""


class Trajectories:
    """A source of noisy latents; one that keeps nothing has only to draw."""

    moves = False
    """Whether `advance` wants a guided prediction for the drawn rows."""

    def draw(self, index: int, progress: float) -> Draw:
        """Return this process's rows of micro-step `index`; `progress` of the run is in [0, 1]."""
        raise NotImplementedError

    def teachers(self, draw: Draw, predict: Teachers) -> dict[str, Tensor]:
        """Return the frozen base's predictions of the drawn rows, computed now or before."""
        return predict(draw)

    def advance(self, draw: Draw, index: int, noise_pred: Tensor) -> None:
        """Move the drawn latents one sampling step on, given their guided prediction."""
        raise NotImplementedError

    def forget_bad(self) -> None:
        """Drop latents that are not finite, after a step whose loss was not."""

    def state(self) -> dict[str, Tensor]:
        """Return what `load_state` needs to go on exactly; nothing if the seed tells it all."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take a state that `state` returned."""


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """Finished objects that methods and the trajectories of their latents share.

    Attributes:
        container: The base model with the adapter attached.
        empty: Embeddings of the unconditional prompt, one row.
        make_noise_scheduler: Returns a fresh diffusers scheduler of the recipe's noise drop-in.
        density: Which timesteps to prefer.
        batch_size: Rows of a micro-step on this process.
        num_processes: Processes that share the global batch.
        rank: This process's place among them.
        seed: The run's seed.
        counter: Counts UNet rows.
        gather: Collects a (B, …) tensor from all processes in rank order.
    """

    container: ModelContainer
    empty: PromptEmbeds
    make_noise_scheduler: Callable[[], Any]
    density: TimestepDensity
    batch_size: int
    num_processes: int
    rank: int
    seed: int
    counter: ForwardCounter
    gather: Callable[[Tensor], Tensor] = lambda tensor: tensor


@dataclass(frozen=True, kw_only=True)
class RolloutPlan(RunParts):
    """Settings of a rollout, and the model that makes it.

    Attributes:
        targets: One prompt's embeddings per concept, (1, T, D) each: what is rolled out.
        num_steps: Sampling steps N of a whole rollout.
        guidance_scale: Classifier-free guidance of the rollout.
        latent_shape: (C, H, W).
        rollout_adapter: Context of rollouts: the adapter off, or at some strength.
    """

    targets: Sequence[PromptEmbeds]
    num_steps: int
    guidance_scale: float
    latent_shape: tuple[int, ...]
    rollout_adapter: Callable[[], AbstractContextManager[None]]

    @property
    def global_batch_size(self) -> int:
        """Rows of one micro-step over all processes."""
        return self.batch_size * self.num_processes

    def my_rows(self) -> list[int]:
        """Return this process's rows of the global batch."""
        return list(range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size))

    def new_scheduler(self) -> Any:
        """Return a scheduler with its grid of `num_steps` timesteps laid out."""
        scheduler = self.make_noise_scheduler()
        self.container.lay_out_steps(scheduler, self.num_steps, self.latent_shape)
        return scheduler

    def noise(self, scheduler: Any, *key: int | str) -> Tensor:
        """Return (1, C, H, W) latents of pure noise in the scheduler's own scale."""
        noise = randomness.normal((1, *self.latent_shape), self.seed, *key)
        return sent(noise, self.container.device) * float(scheduler.init_noise_sigma)

    def weights(self, scheduler: Any, progress: float) -> Tensor:
        """Return the density's (N,) weights over the sampling grid.

        A timestep that a scheduler visits twice, as Heun's does, shares its weight among both.

        Raises:
            RecipeError: The density is zero everywhere on the grid.
        """
        train_timesteps = scheduler.config.num_train_timesteps
        timesteps = scheduler.timesteps.double().cpu()
        is_flow = is_flow_matching(scheduler.config)
        grid = (timesteps / (train_timesteps if is_flow else train_timesteps - 1)).clamp(0, 1)
        visits = (timesteps[:, None] == timesteps).sum(dim=1)
        weights = self.density(grid, progress).double() / visits
        if not float(weights.sum()) > 0:
            raise RecipeError(
                f"scheduler.timestep: its density is 0 at all {len(grid)} timesteps of a rollout",
                "Widen it, or raise method.rollout_steps.",
            )
        return weights

    @torch.no_grad()
    def guided(self, inputs: Tensor, timesteps: Tensor, prompts: PromptEmbeds) -> Tensor:
        """Return predictions (B, C, H, W) of `inputs`, guided and with the rollout's adapter."""
        with self.rollout_adapter():
            return self.counter.predict_guided(
                self.container,
                inputs,
                timesteps,
                prompts,
                empty=self.empty,
                guidance_scale=self.guidance_scale,
            )

    def rolled_out(
        self,
        scheduler: Any,
        latents: Tensor,
        prompts: PromptEmbeds,
        generators: list[torch.Generator],
        *,
        num_steps: int | None = None,
    ) -> Tensor:
        """Return latents (B, C, H, W) of pure noise some steps on; None takes all steps."""
        for timestep in scheduler.timesteps[:num_steps]:
            inputs = model_input(scheduler, latents, timestep)
            labels = sent(timestep, latents.device).repeat(len(latents))
            noise_pred = self.guided(inputs, labels, prompts)
            latents = step_latents(scheduler, noise_pred, timestep, latents, generators)
        return latents


def model_input(scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    """Return latents as the model expects them."""
    scaled: Tensor = scheduler.scale_model_input(latents, timestep)
    return scaled


def step_latents(
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
