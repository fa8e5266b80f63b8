"""The low-rank update of hidden states that all edited layers share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MANY = 64
"""With more directions the SVDs of a model's layers take longer than all else."""


@dataclass(frozen=True)
class StateUpdate:
    """The update of hidden states that every layer shares: c becomes c + left (right c).

    Attributes:
        left: (D, R), of falling length.
        right: (R, D), orthonormal rows.
    """

    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, changes: Tensor, reads: Tensor, *, tolerance: float = 1e-7) -> StateUpdate:
        """Return the update Σ d_i k_iᵀ in as few directions as it has.

        Args:
            changes: (N, D), d.
            reads: (N, D), k.
            tolerance: Directions whose singular value is at most this share of the largest are
                left out: they are rounding.
        """
        q_left, r_left = torch.linalg.qr(changes.double().cpu().T)
        q_right, r_right = torch.linalg.qr(reads.T)
        u, s, vh = torch.linalg.svd(r_left @ r_right.T)
        u, s, vh = _with_fixed_signs(u, s, vh)
        rank = int((s > tolerance * s[0]).sum()) if len(s) and float(s[0]) > 0 else 0
        return cls(left=q_left @ u[:, :rank] * s[:rank], right=vh[:rank] @ q_right.T)

    @property
    def rank(self) -> int:
        """Number of independent directions R."""
        return self.left.shape[1]

    def of_layer(self, weight: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """Return (up, down) of a layer's update W' − W = up down, in float32.

        Args:
            weight: (out, D), the layer's W.
            rank: Keep the best approximation of at most this rank (Eckart and Young); None is
                exact.

        Returns:
            up (out, r) and down (r, D), the singular values shared evenly.
        """
        if _MANY < self.rank <= len(weight):
            return self._of_layer_fast(weight, rank)
        kind = {"device": weight.device, "dtype": torch.float64}
        moved = weight.to(**kind) @ self.left.to(**kind)
        u, s, vh = torch.linalg.svd(moved, full_matrices=False)
        u, s, vh = _with_fixed_signs(u, s, vh)
        kept = len(s) if rank is None else min(rank, len(s))
        root = s[:kept].sqrt()
        up, down = u[:, :kept] * root, root[:, None] * (vh[:kept] @ self.right.to(**kind))
        return up.float(), down.float()

    def _of_layer_fast(self, weight: Tensor, rank: int | None) -> tuple[Tensor, Tensor]:
        """Return the same as `of_layer` by products in float32, which is what is written.

        An exact update is left in the directions that all layers share. A cut one is turned by the
        eigenvectors of the directions' products, which are far smaller than the layer.
        """
        left, right = self.left.to(weight.device), self.right.to(weight.device)
        if rank is None or rank >= self.rank:
            root = torch.linalg.norm(left, dim=0).sqrt()
            return weight.float() @ (left / root).float(), (root[:, None] * right).float()
        moved = weight.float() @ left.float()
        squares, vectors = torch.linalg.eigh((moved.T @ moved).double())
        turn = _with_largest_positive(vectors[:, -rank:].flip(1))
        root = squares[-rank:].flip(0).clamp(min=torch.finfo(torch.float32).tiny) ** 0.25
        up = moved @ (turn / root).float()
        return up, (root[:, None] * (turn.T @ right)).float()

    def apply(self, states: Tensor) -> Tensor:
        """Return what is added to states (N, D), float64."""
        return (states.double() @ self.right.T) @ self.left.T


def _with_fixed_signs(u: Tensor, s: Tensor, vh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return an SVD whose largest entry of each left vector is positive: signs are arbitrary."""
    if not s.numel():
        return u, s, vh
    largest = u.abs().argmax(dim=0, keepdim=True)
    signs = torch.where(u.gather(0, largest)[0] < 0, -1.0, 1.0).to(u)
    return u * signs, s, vh * signs[:, None]


def _with_largest_positive(vectors: Tensor) -> Tensor:
    """Return columns whose largest entry is positive: the signs of eigenvectors are arbitrary."""
    largest = vectors.abs().argmax(dim=0, keepdim=True)
    return vectors * torch.where(vectors.gather(0, largest) < 0, -1.0, 1.0)
