"""A DoRA as other tools can have it: the change of the weights that it makes, at a rank.

Tools read DoRA's own form differently. Of one file, sd-scripts leaves the magnitudes out, A1111 and
InvokeAI take lengths of columns for those of rows, and ComfyUI is off too. The change itself,

    W' − W = m · (W + α/r · B A) / ‖W + α/r · B A‖ − W

has no such readings, but is of full rank, as m stretches each row of W.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor, nn

from loba_tui.core.program.adapter_files.formats import LoraLayer
from loba_tui.core.program.adapter_files.losses import Losses
from loba_tui.core.program.adapter_files.low_rank import nearest_layer

_LEAST_RANK = 32
_RANK_FACTOR = 4


def export_rank(rank: int) -> int:
    """Return the rank that a DoRA's change is written at.

    It is larger than the trained one: the magnitudes' part of the change is of any rank.
    """
    return max(_LEAST_RANK, _RANK_FACTOR * rank)


def size_of_files(num_bytes: int, config: PeftConfig) -> int:
    """Return the size of an adapter's files for both kinds of tools; `num_bytes` is its weights'.

    A DoRA's second file is larger than it.
    """
    if not getattr(config, "use_dora", False):
        return 2 * num_bytes
    return num_bytes + num_bytes * export_rank(config.r) // config.r


@torch.no_grad()
def changed_weight(weight: Tensor, layer: LoraLayer) -> Tensor:
    """Return W' in float64; its rows are as long as the layer's magnitudes."""
    base = weight.double()
    device = base.device
    up, down = layer.up.to(device).double().flatten(1), layer.down.to(device).double().flatten(1)
    moved = base + (layer.alpha / layer.rank) * (up @ down).reshape(base.shape)
    if layer.magnitude is None:
        return moved
    rows = (-1, *[1] * (base.ndim - 1))
    lengths = moved.flatten(1).norm(dim=1).reshape(rows)
    return layer.magnitude.to(device).double().reshape(rows) / lengths * moved


def change_at_rank(
    denoiser: nn.Module, layers: Mapping[str, LoraLayer]
) -> tuple[dict[str, LoraLayer], Losses]:
    """Return LoRA layers nearest to what a DoRA does to its denoiser, and what they lack."""
    changes, losses = {}, []
    for name, layer in layers.items():
        weight = denoiser.get_submodule(name).get_base_layer().weight
        delta = changed_weight(weight, layer) - weight.double()
        nearest, loss = nearest_layer(name, delta, export_rank(layer.rank))
        changes[name] = nearest
        losses.append(loss)
    return changes, Losses.of(losses)


def approximation(losses: Losses, layers: Mapping[str, LoraLayer], *, of: str = "DoRA") -> str:
    """Return what an approximated file says of itself in its metadata, as JSON."""
    found: dict[str, Any] = {
        "of": of,
        "rank": max(layer.rank for layer in layers.values()),
        "error": round(losses.share, 6),
    }
    if losses.worst is not None:
        found |= {"worst_layer": losses.worst.layer, "worst_error": round(losses.worst.share, 6)}
    return json.dumps(found, sort_keys=True)
