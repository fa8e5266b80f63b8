"""Edits of linear layers in closed form, as exact low-rank updates.

Cross-attention reads the prompt through linear maps W c, its keys and values, of the text encoder's
hidden states c. What they make of some states can be changed without training: Unified Concept
Editing (UCE, Gandikota et al. 2023, https://arxiv.org/abs/2308.14761) solves for the new W. The
names are the paper's:

    c_i  a state that is edited             g_i  its guide: W' is to answer c_i as W does g_i
    r_j  a state that is preserved          d_i  the change g_i − c_i

`solve` has the equation. Nothing here knows of models; states are rows (N, D) of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from loba_tui.core.program.closed_form.state_update import StateUpdate


@dataclass(frozen=True)
class Edit:
    """Hidden states that are to change, a row each.

    Attributes:
        states: (N, D), c.
        changes: (N, D), d = g − c.
        owners: Which of the things to be changed each row is a part of; empty where they are one.
    """

    states: Tensor
    changes: Tensor
    owners: tuple[int, ...] = ()

    @property
    def guides(self) -> Tensor:
        """Guides g = c + d: what the states are to become."""
        return self.states + self.changes

    def also(self, states: Tensor, other: Edit) -> Edit:
        """Return an edit besides of further states (N, D), to become what another's rows do."""
        return Edit(
            torch.cat([self.states, states]),
            torch.cat([self.changes, other.guides - states]),
            (*self.owners, *other.owners),
        )

    def unsolved(self, update: StateUpdate) -> float:
        """Return what share of the changes, in length, an update leaves undone."""
        left_undone = self.changes - update.apply(self.states)
        return float(torch.linalg.norm(left_undone) / torch.linalg.norm(self.changes))


def solve(
    edit: Edit,
    preserved: Tensor | None = None,
    *,
    kept: Tensor | None = None,
    edit_weight: float = 1.0,
    preserve_weight: float = 1.0,
    identity_weight: float = 0.5,
) -> StateUpdate:
    """Return the update W' − W that every layer shares, for the W' of Unified Concept Editing.

    `edit_reads` has the arguments and the equation; here `kept` are states (K, D) of any kind.
    """
    reads = edit_reads(
        edit,
        preserved,
        kept=None if kept is None else row_space(kept),
        edit_weight=edit_weight,
        preserve_weight=preserve_weight,
        identity_weight=identity_weight,
    )
    return StateUpdate.of(edit.changes, reads)


def edit_reads(
    edit: Edit,
    preserved: Tensor | None = None,
    *,
    kept: Tensor | None = None,
    edit_weight: float = 1.0,
    preserve_weight: float = 1.0,
    identity_weight: float = 0.5,
) -> Tensor:
    """Return how much of each change a state is given: rows k (N, D) of W' − W = W Σ d_i k_iᵀ.

    It minimises (UCE, eq. 7)

        e Σ |W' c_i − W g_i|² + p Σ |W' r_j − W r_j|² + λ |W' − W|²

    by W' = M₁ M₂⁻¹, mat1 and mat2 of UCE's script:

        M₁ = λW + e Σ W g_i c_iᵀ + p Σ W r_j r_jᵀ,   M₂ = λI + e Σ c_i c_iᵀ + p Σ r_j r_jᵀ

    Since M₁ = W M₂ + e Σ W d_i c_iᵀ, this is a low-rank update of W:

        W' − W = W · e Σ d_i (M₂⁻¹ c_i)ᵀ

    whose right part Σ d_i k_iᵀ depends on no weight: each layer only has to put its W in front.

    States z that are to be kept exactly, (W' − W) z = 0, leave only updates that read what is
    outside of their span. With P the projector onto that, c_i and r_j become P c_i and P r_j, and
    the rows k stay outside (SPEED, Li et al. 2025, https://arxiv.org/abs/2503.07392).

    Args:
        edit: c_i and d_i.
        preserved: (M, D), r_j; None for none.
        kept: (K, D), orthonormal rows that span the states z, from `row_space`; None for none.
        edit_weight: e.
        preserve_weight: p.
        identity_weight: λ, above 0.
    """
    states = edit.states.double().cpu()
    rows = [states * edit_weight**0.5]
    if preserved is not None and len(preserved):
        rows.append(preserved.double().cpu() * preserve_weight**0.5)
    span = states.new_zeros(0, states.shape[1]) if kept is None else kept
    solved = _inverse_m2(outside(states, span), torch.cat(rows), span, identity_weight)
    # Large weights leave rounding inside of the span.
    return edit_weight * outside(solved, span)


def condensed(parts: Iterable[Tensor]) -> Tensor:
    """Return few rows R (N, D) that stand for many: RᵀR is the sum of those of the parts (M, D).

    All that `solve` reads of preserved states is that sum, and a hundred concepts' padding would
    not fit into memory.
    """
    waiting: list[Tensor] = []
    for part in parts:
        waiting.append(part.double().cpu())
        if sum(map(len, waiting)) > 4 * part.shape[1]:
            waiting = [torch.linalg.qr(torch.cat(waiting), mode="r").R]
    return torch.cat(waiting)


def row_space(states: Tensor, *, tolerance: float = 1e-7) -> Tensor:
    """Return an orthonormal basis (R, D), float64, of all that is a sum of the states (N, D).

    Args:
        states: On any device.
        tolerance: Directions whose singular value is at most this share of the largest are left
            out: they are the rounding of encoders.
    """
    if not len(states):
        return torch.zeros(states.shape, dtype=torch.float64)
    _, s, vh = torch.linalg.svd(condensed([states]), full_matrices=False)
    return vh[: int((s > tolerance * s[0]).sum())]


def outside(states: Tensor, span: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Return what of the states (N, D) lies outside of a span's orthonormal basis (R, D).

    A state that has at most a share of `tolerance` of its length outside lies inside: that is the
    rounding of encoders.
    """
    if not len(span):
        return states
    # Twice: of a state that lies nearly inside, one pass leaves rounding of its length.
    rest = _without(_without(states, span), span)
    lengths = torch.linalg.norm(states, dim=1, keepdim=True)
    return rest * (torch.linalg.norm(rest, dim=1, keepdim=True) > tolerance * lengths)


def least_heard(layers: Tensor, num: int) -> Tensor:
    """Return the orthonormal directions (num, D) that layers answer the least.

    Args:
        layers: Σ Wᵀ W, from `gram`.
        num: How many.
    """
    _, vectors = torch.linalg.eigh(layers)
    return vectors[:, :num].T


def gram(weights: Iterable[Tensor]) -> Tensor:
    """Return Σ Wᵀ W over layers (out, D), (D, D) float64 on the CPU."""
    total = None
    for weight in weights:
        exact = weight.double()
        product = exact.T @ exact
        total = product if total is None else total + product
    assert total is not None, "there are no layers"
    return total.cpu()


def revived(states: Tensor, update: StateUpdate, layers: Tensor, *, weight: float) -> Tensor:
    """Return the states that bring edited-away states back: what an edit has not closed yet.

    For each c it is the c' that minimises Σ |W' c' − W c|² + λ |c'|² over all layers
    (Reliable and Efficient Concept Erasure, Gong et al. 2024, https://arxiv.org/abs/2407.12383):
    c' = (λI + Σ W'ᵀ W')⁻¹ (Σ W'ᵀ W) c, where here W' = W A and therefore Σ W'ᵀ W' = Aᵀ (Σ Wᵀ W) A.

    Args:
        states: (N, D) states c that were edited.
        update: The edit, A = I + left right.
        layers: Σ Wᵀ W of the layers as they were, from `gram`.
        weight: λ, above 0.
    """
    identity = torch.eye(states.shape[1], dtype=torch.float64)
    edited = identity + update.left @ update.right
    crossed = edited.T @ layers
    wanted = crossed @ states.double().cpu().T
    return torch.linalg.solve(weight * identity + crossed @ edited, wanted).T


def _inverse_m2(states: Tensor, rows: Tensor, span: Tensor, identity_weight: float) -> Tensor:
    """Return (N, D) rows (M₂⁻¹ c)ᵀ for M₂ = λI + P rowsᵀ rows P, P projecting out of a span."""
    num_rows, width = rows.shape
    if num_rows >= width:
        products = rows.T @ rows
        if len(span):
            # Far fewer numbers than to project each row.
            products = _without(_without(products, span).T, span)
        m2 = products + identity_weight * torch.eye(width, dtype=rows.dtype)
        return torch.linalg.solve(m2, states.T).T
    # Woodbury: far fewer states than dimensions, as with SD-XL's 2048.
    rows = outside(rows, span)
    small = identity_weight * torch.eye(num_rows, dtype=rows.dtype) + rows @ rows.T
    inner = torch.linalg.solve(small, rows @ states.T)
    return (states - inner.T @ rows) / identity_weight


def _without(states: Tensor, span: Tensor) -> Tensor:
    """Return states (N, D) less what of them lies in a span's orthonormal basis (R, D)."""
    return states - (states @ span.T) @ span
