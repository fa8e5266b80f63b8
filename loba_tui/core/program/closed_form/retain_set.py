"""Hidden states that an edit has to leave alone, exactly or as nearly as it can.

The more states are kept exactly, the less is left of those that are edited. SPEED
(Li et al. 2025, https://arxiv.org/abs/2503.07392) keeps those that an edit would move the most, and
what lies around them in directions that the layers hardly hear.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from loba_tui.core.program.closed_form.linear_edit import (
    Edit,
    least_heard,
    outside,
    row_space,
    solve,
)
from loba_tui.core.program.closed_form.state_update import StateUpdate

_LEAST_HEARD = 0.25
"""Share of all directions that count as hardly heard."""


@dataclass(frozen=True)
class RetainSet:
    """States (N, D) that are kept exactly, and states (M, D) that are kept as nearly as can be."""

    exact: Tensor
    near: Tensor

    @cached_property
    def span(self) -> Tensor:
        """Orthonormal rows (K, D) that span the states that are kept exactly."""
        return row_space(self.exact)

    def with_neighbours(self, layers: Tensor, length: float) -> RetainSet:
        """Return the same set with noise around the exact states kept as nearly as can be.

        Drawn often enough, noise is a sum of squares of its directions, which stands here at once.

        Args:
            layers: Σ Wᵀ W of the layers, from `linear_edit.gram`.
            length: Of the noise, as a share of the states' own.
        """
        quiet = least_heard(layers, max(1, int(_LEAST_HEARD * len(layers))))
        each = length * torch.linalg.norm(self.exact) / len(quiet) ** 0.5
        return RetainSet(self.exact, torch.cat([self.near, quiet * each]))


def room(states: Tensor, span: Tensor) -> float:
    """Return the least share of a state's length that lies outside of what is kept exactly.

    Args:
        states: (N, D).
        span: (K, D), from `RetainSet.span`.
    """
    rest = outside(states, span)
    return float((torch.linalg.norm(rest, dim=1) / torch.linalg.norm(states, dim=1)).min())


def moved_share(update: StateUpdate, states: Tensor) -> float:
    """Return by what share of their length an update moves states (N, D), at least one."""
    return float(torch.linalg.norm(update.apply(states)) / torch.linalg.norm(states))


def most_moved(
    candidates: Tensor, edit: Edit, *, influence: float, edit_weight: float, identity_weight: float
) -> Tensor:
    """Return (N,) bool: which states an edit that keeps nothing would move the most.

    Args:
        candidates: (N, D).
        edit: What is to change.
        influence: Least motion, as a share of the candidates' mean.
        edit_weight: e of the edit.
        identity_weight: λ of the edit.
    """
    free = solve(edit, edit_weight=edit_weight, identity_weight=identity_weight)
    moved = torch.linalg.norm(free.apply(candidates), dim=1)
    return moved >= influence * moved.mean()
