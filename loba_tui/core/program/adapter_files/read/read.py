"""Read an adapter file of any form into layers, and refuse what has no meaning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from loba_tui.core.adapter_keys.families import FAMILIES
from loba_tui.core.adapter_keys.kinds import norm_is_over_inputs
from loba_tui.core.adapter_keys.reading import AdapterKeys, LayerKeys, read_keys
from loba_tui.core.errors import CorruptError, NumericsError, RecipeError
from loba_tui.core.file_sources import Source, path_of
from loba_tui.core.program.adapter_files.file import read_checked
from loba_tui.core.program.adapter_files.read.changes import (
    Difference,
    Dora,
    Hadamard,
    Kronecker,
    LowRank,
    WeightChange,
)
from loba_tui.core.program.adapter_files.read.layers import AdapterFile, AdapterLayer
from loba_tui.core.program.adapter_files.read.multiplicative import (
    Factors,
    GeneralLowRank,
    InputRotation,
    OutputRotation,
)
from loba_tui.core.program.adapter_files.read.rows import change_of_rows, rows_of
from loba_tui.core.program.adapter_files.read.strengths import Strengths, strengths_of
from loba_tui.core.text import counted

_ONLY_PEFT = {
    "BOFT of PEFT": "a PEFT BOFT, whose stages depend on a configuration that is not in the file",
}


def read_adapter_file(source: Source) -> AdapterFile:
    """Read and check an adapter file of any form.

    Raises:
        RecipeError: There is no such file, or it is no adapter of a family that is read.
        RefusedError: It is a pickle, or not a plain file.
        CorruptError: It is damaged, or contradicts itself.
        NumericsError: A weight is not finite.
    """
    path = path_of(source)
    header, tensors, metadata = read_checked(source)
    keys = read_keys(header, metadata)
    check_readable(path, keys, has_tensors=bool(tensors))
    strengths = strengths_of(path, metadata, keys.form)
    reader = _LayerReader(path, tensors, strengths)
    layers = tuple(filter(None, map(reader.layer, keys.layers)))
    warnings = [*reader.warnings()]
    if all(_is_nothing(layer) for layer in layers):
        warnings.append("it changes nothing: all its weights are zero")
    return AdapterFile(path, keys, layers, metadata, tensors, tuple(warnings))


def check_readable(path: Path, keys: AdapterKeys, *, has_tensors: bool) -> None:
    """Raise the error of a file in which no layer can be used, or that contradicts itself."""
    if keys.faults:
        more = f" (and {len(keys.faults) - 1} more)" if len(keys.faults) > 1 else ""
        raise CorruptError(
            f"{path} contradicts itself: {keys.faults[0]}{more}.", "Fetch or export it again."
        )
    if keys.layers:
        return
    if not has_tensors:
        raise RecipeError(f"{path} holds no tensors.", "Name an adapter file.")
    if not keys.family.is_supported:
        raise RecipeError(
            f"{path} is an adapter for {keys.family.name}, a model family not supported here.",
            f"Adapters for {FAMILIES} are.",
        )
    raise RecipeError(
        f"{path} is not an adapter that can be used here: {keys.unused_lines()[0]}.",
        "See what is in it with: loba adapter show FILE",
    )


def _is_nothing(layer: AdapterLayer) -> bool:
    """Say whether a layer surely changes nothing: a factor of its product is zero."""
    change = layer.weight
    if layer.bias is not None and bool(layer.bias.any()):
        return False
    if change is None:
        return True
    if isinstance(change, Dora):
        return False
    return any(not bool(tensor.any()) for tensor in change.tensors())


class _LayerReader:
    """Makes the layers of one file, and collects what has to be told about them."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], strengths: Strengths) -> None:
        self._path = path
        self._tensors = tensors
        self._strengths = strengths
        self._zero_alphas: list[str] = []
        self._negative_alphas: list[str] = []

    def warnings(self) -> list[str]:
        """Return a sentence for each oddity that was met."""
        told = []
        if self._zero_alphas:
            layers = counted(len(self._zero_alphas), "layer")
            told.append(f"alpha is 0 in {layers}; the rank is taken, as kohya does")
        if self._negative_alphas:
            layers = counted(len(self._negative_alphas), "layer")
            told.append(f"alpha is below 0 in {layers}, which turns the change round")
        return told

    def layer(self, keys: LayerKeys) -> AdapterLayer | None:
        """Return a layer with its tensors in float32.

        None where its rows of a matrix that several modules share do not change.
        """
        parts = {part: self._float32(key) for part, key in keys.keys.items() if part != "on_input"}
        change = self._change(keys, parts)
        if "scalar" in parts and isinstance(change, LowRank | Hadamard | Kronecker):
            change = change.scaled(float(parts["scalar"]))
        if change is not None and keys.is_dora:
            change = _dora(keys, change, parts)
        bias = self._bias(keys, parts, change)
        if keys.spans:
            change = self._rows(keys, change)
            bias = None if bias is None else rows_of(bias.flatten(), keys.spans)
            if change is None and bias is None:
                return None
        return AdapterLayer(keys, change, bias)

    def _rows(self, keys: LayerKeys, change: WeightChange | None) -> WeightChange | None:
        try:
            return None if change is None else change_of_rows(change, keys.spans)
        except ValueError as error:
            raise RecipeError(
                f"{self._path}: {keys.module} is {error}, which is not read.",
                "Take a LoRA of it, or one with a layer for each module.",
            ) from error

    def _float32(self, key: str) -> Tensor:
        tensor = self._tensors[key].to(torch.float32)
        if not bool(torch.isfinite(tensor).all()):
            raise NumericsError(
                f"{self._path}: {key[:100]!r} is not finite.", "Take another version of the file."
            )
        return tensor

    def _change(self, keys: LayerKeys, parts: Mapping[str, Tensor]) -> WeightChange | None:
        kind, rank = keys.kind.name, keys.kind.rank
        if kind in _ONLY_PEFT:
            raise RecipeError(f"{self._path}: {keys.module} is {_ONLY_PEFT[kind]}.")
        if kind == "LoRA":
            alpha = self._alpha(keys, parts)
            return LowRank(parts["down"], parts["up"], alpha, parts.get("mid"))
        if kind == "LoHa":
            factors = _after(parts, "hada_")
            return Hadamard(scale=self._alpha(keys, parts) / (rank or 1), **factors)
        if kind == "LoKr":
            # Without a product there is no rank that alpha could stand over.
            scale = 1.0 if rank is None else self._alpha(keys, parts) / rank
            return Kronecker(scale, **_after(parts, "lokr_"))
        if kind == "OFT of inputs":
            return InputRotation(parts["oft_R"])
        if kind in ("full difference", "norm difference"):
            return Difference(parts["diff"] if "diff" in parts else parts["w_norm"])
        if kind in ("OFT", "BOFT"):
            limit = float(parts["alpha"]) if "alpha" in parts else 0.0
            return OutputRotation(parts["oft_blocks"], limit, parts.get("rescale"))
        if kind == "IA3":
            on_input = bool(self._tensors[keys.keys["on_input"]].reshape(-1)[0])
            return Factors(parts["weight"], on_input)
        if kind == "IA3 of PEFT":
            shape = keys.shapes["ia3_l"]
            return Factors(parts["ia3_l"] - 1.0, len(shape) == 2 and shape[0] == 1 != shape[1])
        if kind == "GLoRA":
            factors = {name: parts[name] for name in ("a1", "a2", "b1", "b2")}
            return GeneralLowRank(scale=self._alpha(keys, parts) / (rank or 1), **factors)
        return None

    def _alpha(self, keys: LayerKeys, parts: Mapping[str, Tensor]) -> float:
        rank = keys.kind.rank or 1
        if "alpha" in parts:
            # The shortest decimal of a float32: 0.7 comes back as 0.7.
            alpha: float | None = float(f"{parts['alpha'].item():.7g}")
        else:
            alpha = self._strengths.alpha(keys.component, keys.module, rank)
        if alpha is None:
            return float(rank)
        if alpha == 0:
            self._zero_alphas.append(keys.module)
            return float(rank)
        if alpha < 0:
            self._negative_alphas.append(keys.module)
        return alpha

    def _bias(
        self, keys: LayerKeys, parts: Mapping[str, Tensor], change: WeightChange | None
    ) -> Tensor | None:
        bias = parts.get("diff_b", parts.get("b_norm"))
        if "up_bias" in parts and isinstance(change, LowRank):
            own = parts["up_bias"] * change.scale
            bias = own if bias is None else bias + own
        return bias


def _after(parts: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {p.removeprefix(prefix): each for p, each in parts.items() if p.startswith(prefix)}


def _dora(keys: LayerKeys, change: WeightChange, parts: Mapping[str, Tensor]) -> Dora:
    if "magnitude" in parts:
        return Dora(change, parts["magnitude"].flatten())
    outputs, inputs = (change.size() or (0, 0))[:2]
    over_inputs = norm_is_over_inputs(keys.shapes["dora_scale"], outputs, inputs)
    return Dora(change, parts["dora_scale"].flatten(), over_inputs)
