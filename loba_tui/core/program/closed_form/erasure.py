"""The adapter that an edit of concepts comes to: of bounded rank, in one part or in several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from loba_tui.core.program.closed_form.concept_costs import measure_costs, shares_by
from loba_tui.core.program.closed_form.linear_edit import Edit
from loba_tui.core.program.closed_form.prompt_states import Pair, PromptStates, text_projections
from loba_tui.core.program.closed_form.solution import LayerUpdate, Solution, SolverParts
from loba_tui.core.program.closed_form.state_update import StateUpdate


def pairs_of(parts: SolverParts) -> list[Pair]:
    """Return for each concept the prompt that is edited, towards its guide."""
    return [
        Pair(concept.target, towards=str(concept.neutral), strength=concept.guidance)
        for concept in parts.concepts
    ]


def solution_of(
    edit: Edit,
    reads: Tensor,
    parts: SolverParts,
    states: PromptStates,
    *,
    rank: int | None,
    num_adapters: int,
    figures: Mapping[str, float],
) -> Solution:
    """Return the adapter, and what it does to its concepts and to other prompts.

    Args:
        edit: Its rows, with the concept that each is a part of.
        reads: (N, D), from `linear_edit.edit_reads`.
        parts: Concepts and what they are called; what is preserved, and what is only watched.
        states: The prompts' states.
        rank: Cut each layer's update to this rank, in each of the adapters; None keeps all of it.
        num_adapters: How many adapters the edit is split into.
        figures: How well the edit does, for the metrics file.
    """
    projections = text_projections(parts.container)
    layers = _layers(edit, reads, projections, rank, num_adapters)
    if not parts.names:
        return Solution(layers, figures=figures)

    def said(prompts: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        return {label: torch.cat([states.said(p) for p in own]) for label, own in prompts.items()}

    costs = measure_costs(
        edit,
        reads,
        concepts=parts.names,
        preserved=said(parts.preserved),
        watched=said(parts.watched),
        undone=None if rank is None else _undone(edit, layers, projections, len(parts.names)),
    )
    return Solution(layers, figures={**figures, **costs.figures()}, costs=costs)


def _layers(
    edit: Edit,
    reads: Tensor,
    projections: Mapping[str, nn.Linear],
    rank: int | None,
    num_adapters: int,
) -> dict[str, LayerUpdate]:
    """Return the update of every layer, the ranks of the adapters one after another.

    Each adapter edits an even share of the concepts, by the rows that they have in the edit of all:
    all together are that edit, and one alone leaves the other concepts as they were.
    """
    shared = [StateUpdate.of(edit.changes[own], reads[own]) for own in _shares(edit, num_adapters)]
    layers = {}
    for name, module in projections.items():
        factors = [update.of_layer(module.weight.detach(), rank) for update in shared]
        layers[name] = LayerUpdate(
            up=torch.cat([up for up, _ in factors], dim=1),
            down=torch.cat([down for _, down in factors]),
            parts=tuple(up.shape[1] for up, _ in factors),
        )
    return layers


def _shares(edit: Edit, num_adapters: int) -> list[list[int]]:
    """Return which rows each adapter has: those of neighbouring concepts."""
    concepts = sorted(set(edit.owners))
    size = -(-len(concepts) // num_adapters)
    groups = [concepts[start : start + size] for start in range(0, len(concepts), size)]
    return [
        [row for row, owner in enumerate(edit.owners) if owner in set(group)] for group in groups
    ]


def _undone(
    edit: Edit, layers: Mapping[str, LayerUpdate], projections: Mapping[str, nn.Linear], num: int
) -> list[float]:
    """Return what share of each concept's change is left undone, in the mean over the layers."""
    owners, total = torch.tensor(edit.owners), torch.zeros(num, dtype=torch.float64)
    states, changes = edit.states.float(), edit.changes.float()
    for name, module in projections.items():
        weight, update = module.weight.detach().float().cpu(), layers[name]
        wanted = changes @ weight.T
        done = (states @ update.down.cpu().T) @ update.up.cpu().T
        total += torch.tensor(shares_by(owners, wanted - done, wanted, num))
    return (total / max(1, len(projections))).tolist()
