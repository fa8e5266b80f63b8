"""Begin a run with the weights of an adapter file, brought to the rank that the recipe asks for.

The update (alpha / rank) B A of a layer is what the file says. At the same rank the adapter takes
the file's A and B. At a higher one it takes them beside rows of A as every run starts with, whose
columns of B are zero. At a lower one it takes the nearest update of that rank, by singular values
(Eckart and Young 1936, https://doi.org/10.1007/BF02288367).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer as PeftLayer
from torch import Tensor, nn

from loba_tui.core.errors import NumericsError, RecipeError, RefusedError
from loba_tui.core.file_sources import Source, read_source
from loba_tui.core.program.adapter_files.formats import LoraLayer
from loba_tui.core.program.adapter_layers.kinds import kind_of, tuner_layers
from loba_tui.core.program.combine.merge import low_rank_layers, reduce_rank, squared_length
from loba_tui.core.run.directory import adapter_named

_MAX_BYTES = 32 * 2**30
_FEW = 5
_NO_LENGTH = 1e-6
_HINT = "Name a LoRA or LoCon of the same architecture as base_model."


@dataclass(frozen=True)
class AdapterFile:
    """An adapter file that a run begins with, as it was read.

    Attributes:
        name: Its own name, or that of the run it is of; no folder.
        layers: By the denoiser's module name.
    """

    name: str
    sha256: str
    layers: Mapping[str, LoraLayer]

    @classmethod
    def read(cls, given: str) -> AdapterFile:
        """Read a file, or the adapter of a run's folder.

        Raises:
            LobaError: There is none, or it cannot be begun with.
        """
        path = Path(given)
        try:
            source = adapter_named(path)
            layers = low_rank_layers(source)
        except RecipeError as error:
            hint = f"Leave adapter.init_from out, or: {_HINT}"
            raise RecipeError(f"adapter.init_from: {error.message}", hint) from error
        for module, layer in layers.items():
            if not (torch.isfinite(layer.down).all() and torch.isfinite(layer.up).all()):
                raise NumericsError(
                    f"adapter.init_from: {given}: the weights of {module} are not finite",
                    "Name another file; nothing can be trained from this one.",
                )
        return cls(path.name, _sha256(source, given), layers)


@dataclass(frozen=True)
class Beginning:
    """How an adapter file was taken over, for the run's events and the finished file.

    Attributes:
        used: How many layers of the adapter begin with the file's.
        fresh: How many start as they always do, since the file does not have them.
        unused: Layers of the file that the adapter does not have.
        ranks: How many layers were brought from which rank to which.
        error: Length of what a lower rank loses over the length of the whole, all layers together.
    """

    file: str
    sha256: str
    used: int
    fresh: int
    unused: tuple[str, ...]
    ranks: Mapping[str, int]
    error: float

    def as_json(self) -> dict[str, Any]:
        """Return it as checkpoints and the finished adapter hold it, with few of the names."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "layers": self.used,
            "fresh": self.fresh,
            "unused": len(self.unused),
            "unused_names": list(self.unused[:_FEW]),
            "ranks": dict(self.ranks),
            "error": float(f"{self.error:.3g}"),
        }


def begin_with(
    file: AdapterFile, denoiser: nn.Module, adapter_name: str = "default"
) -> dict[str, Any]:
    """Give a new adapter the weights of a file, in place; return `Beginning` as JSON.

    Raises:
        RecipeError: The adapter is no LoRA, or the file is for another model.
    """
    kind = kind_of(denoiser.peft_config[adapter_name])
    if kind != "LoRA":
        raise RecipeError(
            f"adapter.init_from: {kind} cannot begin with a file, only LoRA and LoCon can",
            "Leave it out, or take adapter.name: lora or locon.",
        )
    layers = dict(tuner_layers(denoiser, adapter_name))
    shared = [name for name in layers if name in file.layers]
    if not shared:
        first = next(iter(file.layers), "nothing")
        raise RecipeError(
            f"adapter.init_from: {file.name} has none of the layers that this adapter has; it"
            f" adapts {first}",
            f"{_HINT} adapter.layers says which layers are trained.",
        )
    ranks: Counter[str] = Counter()
    lost = whole = 0.0
    for name in shared:
        given, layer = file.layers[name], layers[name]
        _require_same_shape(file.name, name, given, layer, adapter_name)
        rank = layer.lora_A[adapter_name].weight.shape[0]
        if given.rank != rank:
            ranks[f"{given.rank} to {rank}"] += 1
        if given.rank > rank:
            given, dropped, total = reduce_rank(given, rank)
            lost, whole = lost + dropped, whole + total
        else:
            whole += squared_length(given)
        _put(given, layer, adapter_name)
    return Beginning(
        file=file.name,
        sha256=file.sha256,
        used=len(shared),
        fresh=len(layers) - len(shared),
        unused=tuple(name for name in file.layers if name not in layers),
        ranks=ranks,
        error=math.sqrt(lost / whole) if whole > 0 else 0.0,
    ).as_json()


def described(facts: Mapping[str, Any]) -> str:
    """Return `Beginning` as metadata holds it: one line of JSON, the same for the same facts."""
    return json.dumps(facts, separators=(",", ":"), sort_keys=True)


def _require_same_shape(
    file: str, module: str, given: LoraLayer, layer: PeftLayer, adapter_name: str
) -> None:
    down, up = layer.lora_A[adapter_name].weight, layer.lora_B[adapter_name].weight
    theirs = (given.down[0].numel(), given.up.shape[0])
    ours = (down[0].numel(), up.shape[0])
    if theirs != ours or given.up[0].numel() != given.rank:
        raise RecipeError(
            f"adapter.init_from: {file} is for another model: its {module} has {theirs[0]} inputs"
            f" and {theirs[1]} outputs, and this model's {ours[0]} and {ours[1]}",
            _HINT,
        )


def _put(given: LoraLayer, layer: PeftLayer, adapter_name: str) -> None:
    """Copy an update of at most the layer's rank into it."""
    down, up = layer.lora_A[adapter_name].weight, layer.lora_B[adapter_name].weight
    rank = given.rank
    # Exactly 1 where alpha and rank are the file's, so that its very bits are taken.
    factor = given.alpha / rank / layer.scaling[adapter_name]
    rows = given.down.to(down).reshape(rank, -1)
    columns = (given.up.double() * factor).to(up).reshape(-1, rank)
    # A direction with neither row nor column would get no gradient, ever.
    is_dead = _is_negligible(rows.norm(dim=1)) & _is_negligible(columns.norm(dim=0))
    with torch.no_grad():
        started = down[:rank].reshape(rank, -1)
        down[:rank] = torch.where(is_dead[:, None], started, rows).reshape(down[:rank].shape)
        up.zero_()
        columns = torch.where(is_dead, 0.0, columns)
        up[:, :rank] = columns.reshape(up[:, :rank].shape)


def _is_negligible(lengths: Tensor) -> Tensor:
    return lengths <= _NO_LENGTH * lengths.max()


def _sha256(source: Source, given: str) -> str:
    try:
        return hashlib.sha256(read_source(source, _MAX_BYTES)).hexdigest()
    except OSError as error:
        raise RefusedError(f"The adapter {given} cannot be used: {error}.") from error
