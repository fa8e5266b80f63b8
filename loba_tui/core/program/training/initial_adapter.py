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
from types import MappingProxyType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer as PeftLayer
from torch import Tensor, nn

from loba_tui.core.adapter_keys.names import DENOISERS
from loba_tui.core.errors import RecipeError, RefusedError
from loba_tui.core.file_sources import Source, read_source
from loba_tui.core.program.adapter_files.families import adapter_family
from loba_tui.core.program.adapter_files.formats import LoraLayer
from loba_tui.core.program.adapter_files.low_rank import nearest_layer
from loba_tui.core.program.adapter_files.read.changes import (
    LowRank,
    WeightChange,
    check_fit,
)
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_layers.kinds import kind_of, tuner_layers
from loba_tui.core.program.adapter_layers.text_encoders import name_in_files
from loba_tui.core.program.combine.merge import reduce_rank, squared_length
from loba_tui.core.run.directory import adapter_named

_MAX_BYTES = 32 * 2**30
_FEW = 5
_NO_LENGTH = 1e-6
_HINT = "Name an adapter of the same architecture as base_model."


@dataclass(frozen=True)
class InitialFile:
    """An adapter file that a run begins with, as it was read.

    Attributes:
        name: Its own name, or that of the run it is of; no folder.
        family: The model family that it is for, in words.
        changes: By component and by its module's name.
        others: What it holds besides and is not used: biases, norms, unknown tensors.
    """

    name: str
    sha256: str
    family: str
    changes: Mapping[tuple[str, str], WeightChange]
    others: tuple[str, ...]

    @classmethod
    def read(cls, given: str) -> InitialFile:
        """Read a file, or the adapter of a run's folder.

        Raises:
            LobaError: There is none, or it cannot be begun with.
        """
        path = Path(given)
        try:
            source = adapter_named(path)
            file = read_adapter_file(source)
        except RecipeError as error:
            raise RecipeError(f"adapter.init_from: {error.message}", error.hint) from error
        changes: dict[tuple[str, str], WeightChange] = {}
        others = [unused.key for unused in file.keys.unused]
        for layer in file.layers:
            if layer.bias is not None:
                others.append(f"{_shown(layer.component, layer.module)}.bias")
            if layer.weight is not None:
                _require_own_change(path.name, layer.module, layer.weight)
                changes[layer.component, layer.module] = layer.weight
        return cls(path.name, _sha256(source, given), file.keys.family.name, changes, tuple(others))


@dataclass(frozen=True)
class Beginning:
    """How an adapter file was taken over, for the run's events and the finished file.

    Attributes:
        used: How many layers of the adapter begin with the file's.
        fresh: How many start as they always do, since the file does not have them.
        unused: What the file holds and the adapter does not take.
        ranks: How many layers were brought from which rank or kind to which rank.
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
    file: InitialFile,
    denoiser: nn.Module,
    encoders: Mapping[str, nn.Module] = MappingProxyType({}),
    adapter_name: str = "default",
) -> dict[str, Any]:
    """Give a new adapter the weights of a file, in place; return `Beginning` as JSON.

    Args:
        encoders: Text encoders with a LoRA of the same name, by component.

    Raises:
        RecipeError: The adapter is no LoRA, or the file is for another model.
    """
    kind = kind_of(denoiser.peft_config[adapter_name])
    if kind != "LoRA":
        raise RecipeError(
            f"adapter.init_from: {kind} cannot begin with a file, only LoRA and LoCon can",
            "Leave it out, or take adapter.name: lora or locon.",
        )
    component = adapter_family(denoiser).component
    layers = {(component, name): layer for name, layer in tuner_layers(denoiser, adapter_name)}
    for component, encoder in encoders.items():
        for name, layer in tuner_layers(encoder, adapter_name):
            layers[component, name_in_files(name)] = layer
    shared = [name for name in layers if name in file.changes]
    if not shared:
        names = (_shown(*each) for each in file.changes)
        first = next(iter((*names, *file.others)), "nothing")
        raise RecipeError(
            f"adapter.init_from: {file.name}, for {file.family}, has none of the layers that this"
            f" adapter has; it adapts {first}",
            f"{_HINT} adapter.layers says which layers are trained.",
        )
    ranks: Counter[str] = Counter()
    lost = whole = 0.0
    for place in shared:
        change, layer, name = file.changes[place], layers[place], _shown(*place)
        _require_fit(file, name, change, layer)
        rank = layer.lora_A[adapter_name].weight.shape[0]
        given, dropped, total = _factors(name, change, rank)
        before = _rank_or_kind(change)
        if before != rank:
            ranks[f"{before} to {rank}"] += 1
        lost, whole = lost + dropped, whole + total
        _put(given, layer, adapter_name)
    missed = (_shown(*place) for place in file.changes if place not in layers)
    return Beginning(
        file=file.name,
        sha256=file.sha256,
        used=len(shared),
        fresh=len(layers) - len(shared),
        unused=(*missed, *file.others),
        ranks=ranks,
        error=math.sqrt(lost / whole) if whole > 0 else 0.0,
    ).as_json()


def _shown(component: str, module: str) -> str:
    return module if component in DENOISERS else f"{component}.{module}"


def _rank_or_kind(change: WeightChange) -> int | str:
    return change.rank if isinstance(change, LowRank) and change.mid is None else change.kind


def _factors(name: str, change: WeightChange, rank: int) -> tuple[LoraLayer, float, float]:
    """Return a change as factors of at most a rank, the squared length they lack, and the whole."""
    if not isinstance(change, LowRank) or change.mid is not None:
        layer, loss = nearest_layer(name, change.dense(), rank)
        return layer, loss.lost, loss.whole
    layer = LoraLayer(change.down, change.up, change.alpha)
    return reduce_rank(layer, rank) if layer.rank > rank else (layer, 0.0, squared_length(layer))


def described(facts: Mapping[str, Any]) -> str:
    """Return `Beginning` as metadata holds it: one line of JSON, the same for the same facts."""
    return json.dumps(facts, separators=(",", ":"), sort_keys=True)


def _require_own_change(file: str, module: str, change: WeightChange) -> None:
    if change.needs_base:
        raise RecipeError(
            f"adapter.init_from: {file} has {change.kind} in {module}, whose change depends on the"
            " base model's weights; a LoRA cannot begin with it",
            "Name a LoRA, LoCon, LoHa or LoKr.",
        )


def _require_fit(file: InitialFile, name: str, change: WeightChange, layer: PeftLayer) -> None:
    try:
        check_fit(change.size(), layer.get_base_layer().weight)
    except ValueError as error:
        raise RecipeError(
            f"adapter.init_from: {file.name}, for {file.family}, is for another model: in {name}"
            f" {error}",
            _HINT,
        ) from error


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
