"""Nearest low-rank factors of a weight's change, and how far they are from it.

A truncated singular value decomposition is the nearest matrix of its rank (Eckart and Young 1936,
https://doi.org/10.1007/BF02288367). Large matrices are reduced to a small one first, by a random
subspace that is iterated towards the largest singular vectors (Halko, Martinsson and Tropp 2011,
https://arxiv.org/abs/0909.4061, algorithm 4.4).
"""

from __future__ import annotations

import torch
from torch import Tensor

from loba_tui.core.program.adapter_files.formats import LoraLayer
from loba_tui.core.program.adapter_files.losses import Loss

_SMALL = 320
_OVERSAMPLING = 16
_ITERATIONS = 6


@torch.no_grad()
def nearest_layer(name: str, delta: Tensor, rank: int) -> tuple[LoraLayer, Loss]:
    """Return a layer of at most `rank` that is nearest to a change, in float32, with alpha = rank.

    Args:
        name: Of the layer, for the loss.
        delta: (out, in) or (out, in, h, w); the loss is measured against it.
        rank: Lowered to what the change's shape can have.
    """
    matrix = delta.flatten(1).double()
    rank = min(rank, *matrix.shape)
    left, values, right = _largest(matrix, rank)
    root = values.sqrt()
    up, down = (left * root).float(), (root[:, None] * right).float()
    lost = float((matrix - up.double() @ down.double()).square().sum())
    if delta.ndim == 4:
        up, down = up[..., None, None], down.reshape(rank, *delta.shape[1:])
    layer = LoraLayer(down.contiguous(), up.contiguous(), float(rank))
    return layer, Loss(name, lost, float(matrix.square().sum()))


def _largest(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the `rank` largest singular values with their vectors."""
    width = rank + _OVERSAMPLING
    if min(matrix.shape) <= max(_SMALL, 2 * width):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        # From a generator of its own: the same change has the same factors each time.
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(matrix.shape[1], width, generator=generator, dtype=matrix.dtype)
        basis = torch.linalg.qr(matrix @ start.to(matrix.device)).Q
        for _ in range(_ITERATIONS):
            basis = torch.linalg.qr(matrix.T @ basis).Q
            basis = torch.linalg.qr(matrix @ basis).Q
        inner, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
        left = basis @ inner
    return left[:, :rank], values[:rank], right[:rank]
