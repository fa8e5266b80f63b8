"""Which calls of the network a method makes, found by running its own code beside a stand-in.

Every method, also one that is dropped in later, is a number of predictions with and without
gradients; how many rows each has is the method's affair (trajectories, preserve prompts, scales).
So the recipe's method itself runs a few steps here, on real latents, with a container that notes
each call and returns numbers of no meaning at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from loba_tui.core.associate.caches.tensors.latents import LatentCache
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import Framing, LatentMoments, PromptEmbeds
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.attach import attach_adapter
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.build import build_method, build_solver
from loba_tui.core.program.changed_text import changes_text_alone, solves
from loba_tui.core.program.closed_form.solved_run import config_of_ranks
from loba_tui.core.program.open_model import OpenModel, prompts_of
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.trajectories.predictions import ForwardCounter
from loba_tui.core.recipe.schema import Recipe

_STEPS_WATCHED = 8


@dataclass(frozen=True)
class Call:
    """One prediction: its rows, and whether a backward pass follows."""

    rows: int
    with_grad: bool


@dataclass(frozen=True)
class MethodCalls:
    """Calls that a method makes of the network.

    Attributes:
        first: Calls of the first micro-step, which may fill a pool.
        later: Calls of each of the micro-steps watched after it.
        state_bytes: What the method adds to a checkpoint.
    """

    first: tuple[Call, ...]
    later: tuple[tuple[Call, ...], ...]
    state_bytes: int

    @property
    def student_rows(self) -> int:
        """Most rows that one micro-step holds activations of."""
        return max(
            sum(call.rows for call in step if call.with_grad) for step in (self.first, *self.later)
        )

    @property
    def teacher_rows(self) -> int:
        """Most rows of one call without gradients."""
        steps = (self.first, *self.later)
        return max((call.rows for step in steps for call in step if not call.with_grad), default=0)

    def rows_per_step(self, *, with_grad: bool) -> float:
        """Return the mean rows of a micro-step, the first one left out."""
        rows = [call.rows for step in self.later for call in step if call.with_grad == with_grad]
        return sum(rows) / len(self.later)

    @property
    def warm_up_rows(self) -> float:
        """Rows that the first micro-step has without gradients beyond those of a later one."""
        rows = sum(call.rows for call in self.first if not call.with_grad)
        return max(0.0, rows - self.rows_per_step(with_grad=False))


def record_calls(
    recipe: Recipe, container: ModelContainer, scale: AdapterScale, plugins: Plugins
) -> MethodCalls:
    """Run the recipe's method for a few steps without weights, and return its calls."""
    recorder, model = _recorded(recipe, container)
    method = build_method(
        recipe, model, Processes(), container.denoiser, scale, ForwardCounter(), plugins
    )
    steps = []
    for index in range(1 + _STEPS_WATCHED):
        method.step(index, index / max(recipe.train.steps, 1 + _STEPS_WATCHED))
        steps.append(tuple(recorder.calls))
        recorder.calls.clear()
    state = method.state().values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in state)
    return MethodCalls(steps[0], tuple(steps[1:]), size)


NO_CALLS = MethodCalls((), ((),), 0)
"""Of a method that never calls the denoiser."""


def attach_adapter_or_bound(recipe: Recipe, container: ModelContainer, plugins: Plugins) -> None:
    """Attach the adapter that a run trains, or one as large as a method's own can become."""
    if changes_text_alone(recipe, plugins):
        container.denoiser.requires_grad_(False)
        return
    if not solves(recipe, plugins):
        attach_adapter(recipe, container, plugins)
        return
    _, model = _recorded(recipe, container)
    ranks = build_solver(recipe, model, plugins).most_ranks()
    container.denoiser.requires_grad_(False)
    container.denoiser.add_adapter(config_of_ranks(ranks))


def _recorded(recipe: Recipe, container: ModelContainer) -> tuple[Recorder, OpenModel]:
    """Return a recorder of a model without weights, and the opened model that methods are given."""
    recorder = Recorder(container)
    embeds = dict.fromkeys(prompts_of(recipe), recorder.empty_embeds())
    model = OpenModel(cast(Any, None), recorder, embeds, lambda: LatentCache(recorder, None))
    return recorder, model


@dataclass
class Recorder:
    """A container on the CPU that notes predictions instead of computing them."""

    model: ModelContainer
    calls: list[Call] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        """Answer as the model does: shapes, schedules and names are the same without weights."""
        return getattr(self.model, name)

    @property
    def device(self) -> torch.device:
        """The device that latents are really drawn on."""
        return torch.device("cpu")

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        embeds: PromptEmbeds,
        *,
        framing: Framing | None = None,
        denoiser: Any = None,
    ) -> Tensor:
        """Note the call and return numbers of the right shape and size."""
        self.calls.append(Call(latents.shape[0], torch.is_grad_enabled()))
        return torch.zeros_like(latents) + 0.01

    def empty_embeds(self) -> PromptEmbeds:
        """Return one row of zeros."""
        return _zeros_like(self.model.empty_embeds())

    def encode_prompts(self, prompts: Sequence[str], *, with_grad: bool = False) -> PromptEmbeds:
        """Return zeros, one row a prompt."""
        return self.empty_embeds().select([0] * len(prompts))

    def encode_alone(self, prompts: Sequence[str]) -> list[PromptEmbeds]:
        """Return zeros, one row a prompt."""
        return [self.empty_embeds() for _ in prompts]

    def decode(self, latents: Tensor) -> Tensor:
        """Return grey images."""
        side = self.model.resolution * latents.shape[-1] // self.model.latent_shape()[-1]
        return torch.full((latents.shape[0], 3, side, side), 0.5)

    def encode(self, images: Tensor) -> Tensor:
        """Return latents of the size that belongs to the images."""
        return torch.zeros(images.shape[0], *self.model.latent_shape(images.shape[-1])) + 0.01

    def encode_moments(self, images: Tensor) -> LatentMoments:
        """Return moments of that size."""
        mean = self.encode(images)
        return LatentMoments(mean, torch.ones_like(mean))


def _zeros_like(embeds: PromptEmbeds) -> PromptEmbeds:
    pooled = None if embeds.pooled is None else torch.zeros(embeds.pooled.shape)
    return replace(embeds, embeds=torch.zeros(embeds.embeds.shape), pooled=pooled)
