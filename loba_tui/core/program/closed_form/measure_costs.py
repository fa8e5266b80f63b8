"""Measures what each concept of an edit does to other prompts.

An edit is a sum over its concepts, W' − W = W Σ d_i k_iᵀ, so that what a concept's own rows do to
the states of a prompt can be told apart from what the others do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from loba_tui.core.program.closed_form.linear_edit import Edit
from loba_tui.core.program.evaluation.costs.concept_costs import (
    ConceptCost,
    ConceptCosts,
    PromptCost,
)


def measure_costs(
    edit: Edit,
    reads: Tensor,
    *,
    concepts: Sequence[tuple[str, str]],
    preserved: Mapping[str, Tensor],
    watched: Mapping[str, Tensor],
    undone: Sequence[float] | None = None,
) -> ConceptCosts:
    """Return what an edit does, concept by concept.

    Args:
        edit: Its rows, with the concept that each is a part of.
        reads: (N, D) rows k of W' − W = W Σ d_i k_iᵀ, from `linear_edit.edit_reads`.
        concepts: Name and guide of each.
        preserved: States (T, D) of the prompts that are to stay, by name.
        watched: The same of prompts that the edit was not told of.
        undone: Share of each concept's change that is left undone; None: what the edit leaves.
    """
    changes, owners = edit.changes.double().cpu(), torch.tensor(edit.owners)
    if undone is None:
        left = changes - (edit.states.double().cpu() @ reads.T) @ changes
        undone = shares_by(owners, left, changes, len(concepts))
    prompts = [*preserved.items(), *watched.items()]
    moves, together = _moved(
        changes, reads, owners, [states for _, states in prompts], len(concepts)
    )
    return ConceptCosts(
        tuple(
            ConceptCost(label, guide, float(undone[index]), tuple(moves[index].tolist()))
            for index, (label, guide) in enumerate(concepts)
        ),
        tuple(
            PromptCost(
                label,
                number < len(preserved),
                float(together[number]),
                concepts[int(moves[:, number].argmax())][0],
            )
            for number, (label, _) in enumerate(prompts)
        ),
    )


def shares_by(owners: Tensor, parts: Tensor, wholes: Tensor, num: int) -> list[float]:
    """Return |parts| / |wholes| over the rows (N, D) of each owner, 0 where there is nothing."""
    squares = torch.zeros(2, num, dtype=torch.float64)
    for row, values in enumerate((parts, wholes)):
        squares[row].index_add_(0, owners, values.double().square().sum(dim=1).cpu())
    return (squares[0] / squares[1].clamp(min=torch.finfo(torch.float64).tiny)).sqrt().tolist()


def _moved(
    changes: Tensor, reads: Tensor, owners: Tensor, prompts: Sequence[Tensor], num: int
) -> tuple[Tensor, Tensor]:
    """Return by what share each concept alone (num, P), and all together (P,), move prompts."""
    if not prompts:
        return torch.zeros(num, 0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    states = torch.cat([each.double().cpu() for each in prompts])
    of_prompt = torch.repeat_interleave(
        torch.arange(len(prompts)), torch.tensor([len(each) for each in prompts])
    )
    lengths = _sums(states.square().sum(dim=1), of_prompt, len(prompts)).sqrt()
    heard, products = states @ reads.T, changes @ changes.T
    alone = torch.zeros(num, len(prompts), dtype=torch.float64)
    for concept in range(num):
        own = (owners == concept).nonzero()[:, 0]
        squares = _squares(heard[:, own], products[own][:, own])
        alone[concept] = _sums(squares, of_prompt, len(prompts)).sqrt()
    together = _sums(_squares(heard, products), of_prompt, len(prompts)).sqrt()
    return alone / lengths, together / lengths


def _squares(heard: Tensor, products: Tensor) -> Tensor:
    """Return |Σ h_i d_i|² of each row (M, N) of h, from the products d_i · d_j (N, N)."""
    return ((heard @ products) * heard).sum(dim=1).clamp(min=0)


def _sums(values: Tensor, groups: Tensor, num: int) -> Tensor:
    return torch.zeros(num, dtype=values.dtype).index_add_(0, groups, values)
