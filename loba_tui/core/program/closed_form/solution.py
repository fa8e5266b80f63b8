"""Protocol of a method that computes its adapter instead of training it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.program.adapter_files.shares import AdapterShare
from loba_tui.core.program.closed_form.state_update import StateUpdate
from loba_tui.core.program.evaluation.costs.concept_costs import ConceptCosts
from loba_tui.core.recipe.sections.method import Concept, MethodSection, label_of


@dataclass(frozen=True)
class SolverParts:
    """Finished objects that a solver works with.

    Attributes:
        container: The base model.
        concepts: The recipe's concepts, placeholders filled in.
        embeds: Text embeddings, one row each, of every prompt that the concepts name.
        seed: The run's seed.
        owners: Which of `names` each of the concepts is one prompt of.
        names: Name and guide of each concept as the recipe writes them, before `vary`.
        preserved: The prompts that any concept preserves, by what they are called.
        watched: Prompts of which is to be told what becomes of them, likewise.
    """

    container: ModelContainer
    concepts: Sequence[Concept]
    embeds: Mapping[str, PromptEmbeds]
    seed: int
    owners: Sequence[int] = ()
    names: Sequence[tuple[str, str]] = ()
    preserved: Mapping[str, Sequence[str]] = field(default_factory=dict)
    watched: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        method: MethodSection,
        container: ModelContainer,
        embeds: Mapping[str, PromptEmbeds],
        seed: int,
    ) -> SolverParts:
        """Return the parts of a recipe's method."""
        return cls(
            container=container,
            concepts=method.expanded_concepts,
            embeds=embeds,
            seed=seed,
            owners=method.expanded_from,
            names=[
                (each.label, label_of(each.neutral or "") or "nothing") for each in method.concepts
            ],
            preserved=method.preserved_prompts,
            watched=method.watched_prompts,
        )


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
        costs: What it does concept by concept, and to other prompts; None where that is not told.
        shares: The adapters that it is the sum of, where it is split into several.
    """

    layers: Mapping[str, LayerUpdate]
    text: TextSolution | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    costs: ConceptCosts | None = None
    shares: tuple[AdapterShare, ...] = ()


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
    projections: Mapping[str, nn.Linear],
    num_states: int,
    rank: int | None = None,
    num_parts: int = 1,
) -> dict[str, int]:
    """Return the most rank that an edit of this many states can have in each layer.

    Args:
        projections: The layers by module name.
        num_states: Rows of the edit.
        rank: What each part is cut to; None for no cut.
        num_parts: Parts that the edit is split into.
    """
    return {
        name: min(
            num_states,
            num_parts * min(module.in_features, module.out_features, rank or num_states),
        )
        for name, module in projections.items()
    }
