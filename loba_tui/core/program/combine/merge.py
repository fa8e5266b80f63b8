"""Several adapters as one file: exactly, or at a lower rank with the error that this makes.

A sum of low-rank updates, Σ sᵢ·Bᵢ Aᵢ, is the product of their factors side by side: [s₁B₁ s₂B₂ …]
times [A₁; A₂; …]. So merging is exact at the sum of the ranks. A lower rank keeps the largest
singular values, which no other matrix of that rank does better (Eckart and Young 1936,
https://doi.org/10.1007/BF02288367).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loba_tui import __version__
from loba_tui.core.adapter_metadata import (
    BASE_MODEL_KEY,
    BASE_REVISION_KEY,
    MERGED_KEY,
    RECIPE_KEY,
    VERSION_KEY,
)
from loba_tui.core.errors import RecipeError
from loba_tui.core.file_sources import file_at
from loba_tui.core.program.adapter_files.comfy import other_file, require_kohya
from loba_tui.core.program.adapter_files.families import family_of_file
from loba_tui.core.program.adapter_files.file import WrittenFile, write_file
from loba_tui.core.program.adapter_files.formats import (
    LoraLayer,
    config_of,
    diffusers_file,
    num_inputs,
)
from loba_tui.core.program.adapter_files.read.changes import LowRank
from loba_tui.core.program.adapter_files.read.layers import AdapterFile, AdapterLayer
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.combine.attach import Part
from loba_tui.core.text import counted

_CARRIED = (RECIPE_KEY, BASE_MODEL_KEY, BASE_REVISION_KEY)
_NUMERICAL_RANK = 1e-6
_MOST_ELEMENTS = 2**28
"""No layer of the supported models has more than a tenth of it."""
_CONVOLUTION = re.compile(r"\.conv(?:1|2|_shortcut)?$|^conv_(?:in|out)$")


@dataclass(frozen=True)
class Merged:
    """The layers of a merged adapter, and what was lost.

    Attributes:
        layers: By module name, each with alpha = rank.
        error: Length of what is missing over the length of the whole change, all layers together.
        worst_error: The same of the layer that lost most.
        worst_layer: Which that is; empty where nothing was lost.
        family_name: Of the models that all of them are for; empty where they do not say it.
    """

    layers: Mapping[str, LoraLayer]
    error: float
    worst_error: float
    worst_layer: str
    family_name: str = ""


def merge(parts: Sequence[Part], *, rank: int | None = None, unet_only: bool = False) -> Merged:
    """Add adapters up, each times its strength, at most `rank` a layer; None keeps all of it.

    What they have for text encoders is left out with `unet_only`, and else refused.

    Raises:
        RecipeError: One cannot be a sum of low-rank updates, or they fit no common model.
    """
    together: dict[str, list[LoraLayer]] = {}
    files = [read_adapter_file(part.source) for part in parts]
    family_name = _transformer_of(files)
    for part, file in zip(parts, files, strict=True):
        for module, layer in low_rank_of(file, unet_only=unet_only).items():
            factor = part.strength * layer.alpha / layer.rank
            moved = LoraLayer(layer.down.float(), layer.up.float() * factor, float(layer.rank))
            together.setdefault(module, []).append(moved)
    layers, lost, whole = {}, 0.0, 0.0
    worst, worst_layer = 0.0, ""
    for module, members in sorted(together.items()):
        layer = _side_by_side(module, members)
        if rank is not None and layer.rank > rank:
            layer, dropped, total = reduce_rank(layer, rank)
            share = math.sqrt(dropped / total) if total > 0 else 0.0
            if share > worst:
                worst, worst_layer = share, module
        else:
            dropped, total = 0.0, squared_length(layer)
        layers[module] = layer
        lost, whole = lost + dropped, whole + total
    error = math.sqrt(lost / whole) if whole > 0 else 0.0
    return Merged(layers, error, worst, worst_layer, family_name)


def _transformer_of(files: Sequence[AdapterFile]) -> str:
    """Return the name of the transformers that all files are for; empty where that is not told.

    Transformers have layers of the same names and sizes that do not mean the same.

    Raises:
        RecipeError: Two are for different ones.
    """
    is_of_transformer = [any(la.component == "transformer" for la in f.layers) for f in files]
    if not any(is_of_transformer):
        return ""
    common = set(files[0].keys.family.names)
    for file in files[1:]:
        common &= set(file.keys.family.names)
        if not common:
            names = (files[0].keys.family.name, file.keys.family.name)
            raise RecipeError(
                f"the adapters do not fit one model: {files[0].path.name} is for {names[0]}, and"
                f" {file.path.name} for {names[1]}",
                "Merge adapters that were trained on the same architecture.",
            )
    return common.pop() if len(common) == 1 else ""


def low_rank_of(file: AdapterFile, *, unet_only: bool = False) -> dict[str, LoraLayer]:
    """Return the denoiser's layers of an adapter file as products of two factors.

    Args:
        unet_only: Leave out what it has for text encoders.

    Raises:
        RecipeError: A layer's change is not of low rank, or it changes text encoders.
    """
    if file.text_encoder_layers and not unet_only:
        raise RecipeError(
            f"{file.path} also changes {counted(file.text_encoder_layers, 'layer')} of text"
            " encoders, which are not merged.",
            "To use what it has for the UNet alone, add --unet-only.",
        )
    layers = file.denoiser_layers
    if not layers:
        raise RecipeError(f"{file.path} has no layers of a denoiser.", "Name another adapter.")
    return {module: _low_rank(file.path, layer) for module, layer in layers.items()}


def _low_rank(path: Path, layer: AdapterLayer) -> LoraLayer:
    change, module = layer.weight, layer.module
    if change is None or layer.bias is not None or layer.keys.kind.name == "norm difference":
        raise RecipeError(
            f"{path}: {module} changes a norm or a bias, which is not a product of two factors",
            "It can be sampled and measured, and not merged.",
        )
    if change.needs_base:
        raise RecipeError(
            f"{path}: the change that {change.kind} makes depends on the base model's weights and"
            " is not of low rank",
            "LoRA, LoCon, LoHa and LoKr can be merged.",
        )
    if isinstance(change, LowRank) and change.mid is None:
        return LoraLayer(change.down, change.up, change.alpha)
    size = change.size()
    if size is not None and len(size) == 2 and _CONVOLUTION.search(module):
        raise RecipeError(
            f"{path}: {change.kind} on convolutions, as {module}, does not say how large kernels"
            " are",
            "LoRA, LoCon, and LoHa and LoKr of linear layers can be merged.",
        )
    if size is None or math.prod(size) > _MOST_ELEMENTS:
        raise RecipeError(f"{path}: {module} is larger than a layer of a model can be")
    return _factored(change.to(torch.float64).dense())


def _factored(delta: Tensor) -> LoraLayer:
    """Return a dense change as two factors of its numerical rank."""
    left, values, right = torch.linalg.svd(delta.flatten(1), full_matrices=False)
    rank = max(1, int((values > _NUMERICAL_RANK * values[0]).sum()))
    root = values[:rank].sqrt()
    down, up = (root[:, None] * right[:rank]).float(), (left[:, :rank] * root).float()
    if delta.ndim == 4:
        down, up = down.reshape(rank, *delta.shape[1:]), up[..., None, None]
    return LoraLayer(down, up, float(rank))


def _side_by_side(module: str, members: Sequence[LoraLayer]) -> LoraLayer:
    if len({(m.down.shape[1:], m.up.shape[0]) for m in members}) > 1:
        raise RecipeError(
            f"the adapters do not fit one model: their {module} are of different shapes",
            "Merge adapters that were trained on the same architecture.",
        )
    down = torch.cat([member.down for member in members])
    up = torch.cat([member.up for member in members], dim=1)
    return LoraLayer(down, up, float(down.shape[0]))


def reduce_rank(layer: LoraLayer, rank: int) -> tuple[LoraLayer, float, float]:
    """Return the nearest layer of a rank, the squared length it lacks, and that of the whole.

    The singular values of U D are those of the small matrix R₁ R₂ᵀ, U = Q₁R₁ and Dᵀ = Q₂R₂.
    """
    factor = layer.alpha / layer.rank
    left, left_small = torch.linalg.qr(layer.up.double().flatten(1) * factor)
    right, right_small = torch.linalg.qr(layer.down.double().flatten(1).T)
    inner_left, values, inner_right = torch.linalg.svd(left_small @ right_small.T)
    rank = min(rank, len(values))
    root = values[:rank].sqrt()
    up = (left @ inner_left[:, :rank]) * root
    down = root[:, None] * (inner_right[:rank] @ right.T)
    reduced = LoraLayer(
        down.reshape(rank, *layer.down.shape[1:]).float().contiguous(),
        up.reshape(layer.up.shape[0], rank, *layer.up.shape[2:]).float().contiguous(),
        float(rank),
    )
    squares = values.square()
    return reduced, float(squares[rank:].sum()), float(squares.sum())


def inner_product(one: LoraLayer, other: LoraLayer) -> float:
    """Return Σ ΔW₁·ΔW₂ over all entries, without making either of them."""
    ups = one.up.double().flatten(1).T @ other.up.double().flatten(1)
    downs = one.down.double().flatten(1) @ other.down.double().flatten(1).T
    factor = one.alpha / one.rank * other.alpha / other.rank
    return float((ups * downs).sum()) * factor


def squared_length(layer: LoraLayer) -> float:
    """Return Σ ΔW² over all entries."""
    return inner_product(layer, layer)


def write_merged(
    merged: Merged, parts: Sequence[Part], path: Path, *, file_format: str
) -> WrittenFile:
    """Write a merged adapter, with what it was made of in its metadata.

    The recipe that it carries is the first one's, so that it can be sampled as that one can.
    """
    origins = [_origin(part) for part in parts]
    first = read_adapter_file(parts[0].source).metadata
    metadata = {
        **{key: first[key] for key in _CARRIED if key in first},
        VERSION_KEY: __version__,
        MERGED_KEY: json.dumps(origins, sort_keys=True),
    }
    family = family_of_file(first, num_inputs(merged.layers), merged.family_name)
    if file_format == "kohya":
        require_kohya(family)
    if file_format in ("kohya", "comfy"):
        content = other_file(merged.layers, metadata, family)
    else:
        config: dict[str, Any] = {**config_of(merged.layers), "use_rslora": False}
        content = diffusers_file(merged.layers, {"peft_type": "LORA", **config}, metadata, family)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_file(file_at(path), *content)


def _origin(part: Part) -> dict[str, Any]:
    content = part.path.read_bytes()
    return {
        "name": part.label,
        "sha256": hashlib.sha256(content).hexdigest(),
        "strength": part.strength,
    }
