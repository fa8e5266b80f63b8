"""Changes of weights as products of two factors: LoRA layers, exactly where there is such a form.

| kind | factors |
|---|---|
| LoRA with a core t | up, and the core times down |
| LoHa | (A₁B₁) ∘ (A₂B₂) = (A₁ • A₂)(B₁ • B₂), products of all pairs of columns, and of rows |
| LoKr | W₁ ⊗ W₂ = (U₁ ⊗ U₂)(D₁ ⊗ D₂), with Wᵢ = UᵢDᵢ |
| full difference | its singular values above the numerical noise |
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from loba_tui.core.program.adapter_files.formats import LoraLayer
from loba_tui.core.program.adapter_files.losses import Loss
from loba_tui.core.program.adapter_files.low_rank import nearest_layer
from loba_tui.core.program.adapter_files.read.changes import (
    Hadamard,
    Kronecker,
    LowRank,
    WeightChange,
)
from loba_tui.core.program.combine.merge import reduce_rank

_NUMERICAL_RANK = 1e-7
_THREE = re.compile(r"(?:\.conv[12]?|^conv_(?:in|out))$")


@torch.no_grad()
def lora_layer(
    name: str, change: WeightChange, rank: int | None, *, is_sd_1: bool = False
) -> tuple[LoraLayer, Loss]:
    """Return a change as a LoRA layer of at most `rank`; None keeps all of it.

    Args:
        name: Of the module.
        change: Of a kind that needs no base.
        rank: The largest; a higher one than the change's shape can have is never made.
        is_sd_1: Whether projections around transformers are convolutions.
    """
    layer, loss = _lora_layer(name, change, rank)
    return _with_kernel(name, layer, is_sd_1), loss


def _lora_layer(name: str, change: WeightChange, rank: int | None) -> tuple[LoraLayer, Loss]:
    layer = _product(change)
    if layer is None:
        dense = change.dense()
        return nearest_layer(name, dense, rank or _numerical_rank(dense))
    most = min(layer.up.shape[0], layer.down[0].numel())
    wanted = most if rank is None else min(rank, most)
    if layer.rank <= wanted:
        return layer, Loss(name, 0.0, _square(layer))
    reduced, lost, whole = reduce_rank(layer, wanted)
    return reduced, Loss(name, lost if wanted < most else 0.0, whole)


def _with_kernel(name: str, layer: LoraLayer, is_sd_1: bool) -> LoraLayer:
    """Give a convolution that is written as a matrix its kernel back: readers go by it."""
    side = 3 if _THREE.search(name) else 1 if name.endswith(".conv_shortcut") else 0
    if is_sd_1 and name.endswith((".proj_in", ".proj_out")):
        side = 1
    if not side or layer.down.ndim == 4:
        return layer
    down = layer.down.reshape(layer.rank, -1, side, side)
    return replace(layer, down=down, up=layer.up[..., None, None])


def scaled(layer: LoraLayer, strength: float) -> LoraLayer:
    """Return a layer whose strength 1 is another's `strength`.

    A sign goes into `up`: some tools take an alpha for a size.
    """
    up = -layer.up if strength < 0 else layer.up
    return replace(layer, up=up, alpha=layer.alpha * abs(strength))


def _numerical_rank(dense: Tensor) -> int:
    values = torch.linalg.svdvals(dense.flatten(1).double())
    return max(1, int((values > _NUMERICAL_RANK * values[0]).sum()))


def _square(layer: LoraLayer) -> float:
    ups = layer.up.double().flatten(1).T @ layer.up.double().flatten(1)
    downs = layer.down.double().flatten(1) @ layer.down.double().flatten(1).T
    return float((ups * downs).sum()) * (layer.alpha / layer.rank) ** 2


def _product(change: WeightChange) -> LoraLayer | None:
    if isinstance(change, LowRank):
        if change.mid is None:
            return LoraLayer(change.down, change.up, change.alpha)
        down = torch.einsum("ijkl,jr->irkl", change.mid, change.down.flatten(1))
        up = change.up.flatten(1)[..., None, None]
        return LoraLayer(down.contiguous(), up, change.scale * len(down))
    if isinstance(change, Hadamard) and change.t1 is None and change.t2 is None:
        up = (change.w1_a[:, :, None] * change.w2_a[:, None, :]).flatten(1)
        down = (change.w1_b[:, None, :] * change.w2_b[None, :, :]).flatten(0, 1)
        return LoraLayer(down, up, change.scale * len(down))
    if isinstance(change, Kronecker) and change.t2 is None:
        up_1, down_1 = _pair(change.w1, change.w1_a, change.w1_b)
        up_2, down_2 = _pair(change.w2, change.w2_a, change.w2_b)
        up = torch.kron(up_1, up_2)
        down = torch.kron(down_1.reshape(*down_1.shape, *[1] * (down_2.ndim - 2)), down_2)
        if down.ndim == 4:
            up = up[..., None, None]
        return LoraLayer(down, up, change.scale * len(down))
    return None


def _pair(whole: Tensor | None, left: Tensor | None, right: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return two factors of a matrix that is whole or a product already; the smaller side is 1."""
    if whole is None:
        assert left is not None, "a layer that was read is whole"
        assert right is not None, "a layer that was read is whole"
        return left, right
    outputs, inputs = whole.shape[0], whole[0].numel()
    if outputs <= inputs or whole.ndim > 2:
        return torch.eye(outputs, dtype=whole.dtype), whole.contiguous()
    return whole, torch.eye(inputs, dtype=whole.dtype)
