"""Protocol of a method that computes its adapter instead of training it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.program.closed_form.linear_edit import StateUpdate
from loba_tui.core.recipe.schema import Concept


@dataclass(frozen=True)
class SolverParts:
    """Finished objects that a solver works with.

    Attributes:
        container: The base model.
        concepts: The recipe's concepts, placeholders filled in.
        embeds: Text embeddings, one row each, of every prompt that the concepts name.
        seed: The run's seed.
    """

    container: ModelContainer
    concepts: Sequence[Concept]
    embeds: Mapping[str, PromptEmbeds]
    seed: int


@dataclass(frozen=True)
class LayerUpdate:
    """A low-rank update W + up down of one linear layer; up is (out, r), down (r, in)."""

    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        """Columns of `up`."""
        return self.up.shape[1]


@dataclass(frozen=True)
class TextSolution:
    """A computed change of text encoders, by component and by module as adapter files call it.

    Attributes:
        lora: Low-rank updates, which every tool loads.
        biases: What the same change is as a gain of biases (outputs,), which some tools load.
    """

    lora: Mapping[str, Mapping[str, LayerUpdate]]
    biases: Mapping[str, Mapping[str, Tensor]]

    def times(self, factor: float) -> TextSolution:
        """Return the change whose strength 1 is what `factor` is of this one."""
        return TextSolution(
            lora={
                component: {name: replace(u, up=u.up * factor) for name, u in layers.items()}
                for component, layers in self.lora.items()
            },
            biases={
                component: {name: bias * factor for name, bias in gains.items()}
                for component, gains in self.biases.items()
            },
        )


@dataclass(frozen=True)
class Solution:
    """A computed adapter.

    Attributes:
        layers: Updates by the denoiser's module name, float32.
        text: Changes of the text encoders, where it changes those instead.
        figures: How well it does what it was computed for, for the metrics file.
    """

    layers: Mapping[str, LayerUpdate]
    text: TextSolution | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Solver(Protocol):
    """A method without steps. Its file says so by `SOLVES = True`.

    One that changes text encoders alone says `TEXT_ONLY = True` too, and has no most ranks.
    """

    def solve(self) -> Solution:
        """Compute the adapter; the same parts give the same bits."""
        ...

    def most_ranks(self) -> Mapping[str, int]:
        """Return the most rank that each layer's update can have, without any weight's values."""
        ...


def layer_updates(
    update: StateUpdate, projections: Mapping[str, nn.Linear], rank: int | None = None
) -> dict[str, LayerUpdate]:
    """Return the update of every layer that reads the edited states.

    Args:
        update: What all of them share.
        projections: The layers by module name.
        rank: Keep this much of each at most; None is exact.
    """
    layers = {}
    for name, module in projections.items():
        up, down = update.of_layer(module.weight.detach(), rank)
        layers[name] = LayerUpdate(up, down)
    return layers


def most_ranks(
    projections: Mapping[str, nn.Linear], num_states: int, rank: int | None = None
) -> dict[str, int]:
    """Return the most rank that an edit of this many states can have in each layer."""
    return {
        name: min(num_states, module.in_features, module.out_features, rank or num_states)
        for name, module in projections.items()
    }
