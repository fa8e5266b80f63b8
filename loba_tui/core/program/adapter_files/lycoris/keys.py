"""LyCORIS' keys of LoHa and LoKr files: from PEFT's layers to them, and back.

PEFT's weights have the same names after a module's. What differs is where the strength is said: a
LyCORIS file has an alpha a layer, over the inner size of whichever factor is a product. Read back,
it is in the weights already, and alpha is the rank in every layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lokr.layer import factorization
from torch import Tensor

from loba_tui.core.adapter_keys import kohya_keys
from loba_tui.core.program.adapter_files.families import AdapterFamily
from loba_tui.core.program.adapter_files.formats import not_an_adapter

_LOHA = frozenset(f"hada_w{number}_{side}" for number in "12" for side in "ab")
_LOHA_ALL = _LOHA | {"hada_t1", "hada_t2"}
_LOKR_ALL = frozenset(
    [*("lokr_w1", "lokr_w1_a", "lokr_w1_b"), *("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")]
)


def is_lycoris(tensors: Mapping[str, Tensor]) -> bool:
    """Say whether a file's keys are those of a LoHa or LoKr for kohya's tools."""
    return any(
        name.startswith(kohya_keys.PREFIX) and (".hada_" in name or ".lokr_" in name)
        for name in tensors
    )


def with_alpha_of_rank(
    weights: Mapping[str, Tensor], strengths: Mapping[str, tuple[float, int]]
) -> dict[str, Tensor]:
    """Return weights by PEFT's names whose alpha is the rank, the factor multiplied into the first.

    `strengths` has alpha and rank of each module. It is as exact as `LoraLayer.with_alpha_of_rank`.
    """
    folded = dict(weights)
    for module, (alpha, rank) in strengths.items():
        if alpha == rank:
            continue
        names = (f"{module}.{part}" for part in ("hada_w1_a", "lokr_w1", "lokr_w1_a"))
        first = next(name for name in names if name in folded)
        folded[first] = (folded[first].double() * (alpha / rank)).to(folded[first].dtype)
    return folded


def to_lycoris(
    weights: Mapping[str, Tensor],
    strengths: Mapping[str, tuple[float, int]],
    family: AdapterFamily,
) -> dict[str, Tensor]:
    """Return weights under LyCORIS' names.

    Args:
        weights: By PEFT's names.
        strengths: Alpha and rank of each module.
        family: Of the model, which says how layers are named.
    """
    tensors = {}
    for name, weight in weights.items():
        module, _, part = name.rpartition(".")
        tensors[f"{_lycoris_name(module, family)}.{part}"] = weight
    for module, (alpha, rank) in strengths.items():
        name = _lycoris_name(module, family)
        full = tensors.get(f"{name}.lokr_w1")
        if full is not None and f"{name}.lokr_w2" in tensors:
            # Readers find the rank in a factor of a product; without one they take 1 for the scale.
            tensors[f"{name}.lokr_w1"] = full * (alpha / rank)
            alpha = float(rank)
        tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
    return tensors


def _lycoris_name(module: str, family: AdapterFamily) -> str:
    """Return what LyCORIS calls a layer: as kohya does in a UNet, by its own prefix elsewhere."""
    if family.transformer is not None:
        return f"lycoris_{module.replace('.', '_')}"
    return kohya_keys.to_kohya(module, family.layout)


def from_lycoris(
    path: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights under `unet.` and PEFT's names, and the configuration that they belong to.

    Raises:
        RecipeError: A key is none of such a file, or a layer lacks one.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        try:
            modules.setdefault(kohya_keys.from_kohya(name), {})[part] = tensor
        except KeyError as error:
            raise not_an_adapter(path, key) from error
    ranks: dict[str, int] = {}
    weights: dict[str, Tensor] = {}
    kind = "LOHA" if any(".hada_" in key for key in tensors) else "LOKR"
    for module, parts in modules.items():
        alpha = parts.pop("alpha", None)
        if not _is_whole(kind, parts) or (alpha is not None and alpha.numel() != 1):
            raise not_an_adapter(path, f"{module}: {', '.join(sorted(parts))}")
        rank = _inner_size(parts)
        if rank is not None and alpha is not None:
            first = "hada_w1_a" if kind == "LOHA" else _first_factor(parts)
            parts[first] = parts[first] * (float(alpha) / rank)
        # Without a product PEFT has to be told of a rank that is too large for one.
        ranks[module] = rank or max(size for part in parts.values() for size in part.shape)
        weights |= {f"unet.{module}.{part}": weight for part, weight in parts.items()}
    most = max(ranks.values())
    pattern = {module: rank for module, rank in ranks.items() if rank != most}
    config: dict[str, Any] = {
        "peft_type": kind,
        "target_modules": sorted(modules),
        **{"r": most, "alpha": float(most)},
        **{"rank_pattern": pattern, "alpha_pattern": dict(pattern)},
    }
    if kind == "LOHA":
        config["use_effective_conv2d"] = any("hada_t1" in parts for parts in modules.values())
    else:
        config["use_effective_conv2d"] = any("lokr_t2" in parts for parts in modules.values())
        config["decompose_both"] = any("lokr_w1_a" in parts for parts in modules.values())
        config["decompose_factor"] = _factor_of(modules.values())
    return weights, config


def _is_whole(kind: str, parts: Mapping[str, Tensor]) -> bool:
    """Say whether a layer has all factors of its kind, as matrices or more, and nothing else."""
    names = set(parts)
    if any(part.ndim < 2 or not part.numel() for part in parts.values()):
        return False
    if kind == "LOHA":
        return _LOHA <= names <= _LOHA_ALL
    factors = [({f"lokr_w{n}"}, {f"lokr_w{n}_a", f"lokr_w{n}_b"}) for n in "12"]
    return names <= _LOKR_ALL and all((full <= names) != (ab <= names) for full, ab in factors)


def _inner_size(parts: Mapping[str, Tensor]) -> int | None:
    """Return the rank of a layer's products; None where there is none."""
    for name in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if name in parts:
            return int(parts[name].shape[0])
    return None


def _first_factor(parts: Mapping[str, Tensor]) -> str:
    return "lokr_w1" if "lokr_w1" in parts else "lokr_w1_a"


def _factor_of(modules: Iterable[Mapping[str, Tensor]]) -> int:
    """Return the factor by which PEFT would split all layers as they are split here.

    −1, next to the square root of a size, is what LyCORIS takes unless told otherwise. Where none
    is right, PEFT makes layers of other shapes, which loading tells.
    """
    splits = set()
    for parts in modules:
        second = parts["lokr_w2"] if "lokr_w2" in parts else parts["lokr_w2_a"]
        splits.add((parts[_first_factor(parts)].shape[0], second.shape[0]))
    for factor in (-1, *sorted({left for left, _ in splits}, reverse=True)):
        if all(factorization(left * right, factor) == (left, right) for left, right in splits):
            return factor
    return -1
