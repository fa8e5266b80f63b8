"""The adapter that an edit of concepts comes to: of bounded rank, in one part or in several."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from loba_tui.core.program.adapter_files.shares import AdapterShare
from loba_tui.core.program.closed_form.linear_edit import Edit
from loba_tui.core.program.closed_form.measure_costs import measure_costs, shares_by
from loba_tui.core.program.closed_form.prompt_states import Pair, PromptStates
from loba_tui.core.program.closed_form.solution import (
    LayerUpdate,
    Solution,
    SolverParts,
    layer_updates,
)
from loba_tui.core.program.closed_form.state_update import StateUpdate
from loba_tui.core.program.spread import spread

_MOST_LAYERS = 16
"""Of a cut edit, what so many layers leave undone is looked at."""


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
    projections = parts.container.text_projections()
    groups = _groups(edit, num_adapters)
    layers, ranks = _layers(edit, reads, projections, rank, groups)
    if not parts.names:
        return Solution(layers, figures=figures)

    def heard(prompts: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        return {label: torch.cat([states.heard(p) for p in own]) for label, own in prompts.items()}

    costs = measure_costs(
        edit,
        reads,
        concepts=parts.names,
        preserved=heard(parts.preserved),
        watched=heard(parts.watched),
        undone=None if rank is None else _undone(edit, layers, projections, len(parts.names)),
    )
    shares = [
        AdapterShare(tuple(parts.names[index][0] for index in group), own)
        for group, own in zip(groups, ranks, strict=True)
    ]
    return Solution(
        layers,
        figures={**figures, **costs.figures()},
        costs=costs,
        shares=tuple(shares) if len(shares) > 1 else (),
    )


def _groups(edit: Edit, num_adapters: int) -> list[list[int]]:
    """Return the concepts of each adapter: neighbours, and of each about as many."""
    concepts = sorted(set(edit.owners))
    num_adapters = min(num_adapters, len(concepts))
    bounds = [round(number * len(concepts) / num_adapters) for number in range(num_adapters + 1)]
    return [concepts[first:end] for first, end in itertools.pairwise(bounds)]


def _layers(
    edit: Edit,
    reads: Tensor,
    projections: Mapping[str, nn.Linear],
    rank: int | None,
    groups: Sequence[Sequence[int]],
) -> tuple[dict[str, LayerUpdate], list[dict[str, tuple[int, int]]]]:
    """Return the update of every layer, and which of its ranks are each group's.

    A group's part has the rows that its concepts have in the edit of all: all parts together are
    that edit, and one alone leaves the other concepts as they were.
    """
    owners = torch.tensor(edit.owners)
    own = [torch.isin(owners, torch.tensor(group)) for group in groups]
    parts = [
        layer_updates(StateUpdate.of(edit.changes[rows], reads[rows]), projections, rank)
        for rows in own
    ]
    layers = {}
    ranks: list[dict[str, tuple[int, int]]] = [{} for _ in groups]
    for name in projections:
        updates = [part.pop(name) for part in parts]  # not held twice
        bounds = [0, *itertools.accumulate(update.rank for update in updates)]
        for group, bound in zip(ranks, itertools.pairwise(bounds), strict=True):
            group[name] = bound
        layers[name] = LayerUpdate(
            up=torch.cat([update.up for update in updates], dim=1),
            down=torch.cat([update.down for update in updates]),
        )
    return layers, ranks


def _undone(
    edit: Edit, layers: Mapping[str, LayerUpdate], projections: Mapping[str, nn.Linear], num: int
) -> list[float]:
    """Return what share of each concept's change is left undone, in the mean over some layers."""
    owners, total = torch.tensor(edit.owners), torch.zeros(num, dtype=torch.float64)
    states, changes = edit.states.float(), edit.changes.float()
    looked_at = spread(list(projections), _MOST_LAYERS)
    for name in looked_at:
        weight, update = projections[name].weight.detach().float().cpu(), layers[name]
        wanted = changes @ weight.T
        done = (states @ update.down.cpu().T) @ update.up.cpu().T
        total += torch.tensor(shares_by(owners, wanted - done, wanted, num))
    return (total / max(1, len(looked_at))).tolist()
