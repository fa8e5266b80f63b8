"""Describe an adapter file by its header alone: form, family, layers, strengths, metadata."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loba_tui.core.adapter_keys.names import COMPONENTS
from loba_tui.core.adapter_keys.numbers import read_numbers
from loba_tui.core.adapter_keys.origin import maker_of
from loba_tui.core.adapter_keys.reading import AdapterKeys, LayerKeys, read_keys
from loba_tui.core.associate.safe_files import check_safetensors, refuse_pickle
from loba_tui.core.errors import RecipeError, RefusedError
from loba_tui.core.file_sources import open_source
from loba_tui.core.files import UnsafeFileError
from loba_tui.core.text import clean, counted
from loba_tui.core.units import show_size

_CONFIGURATIONS = ("lora_adapter_metadata", "peft_config")
_MOST_VALUE, _MOST_ENTRIES = 80, 40
_HAS_ALPHA = ("LoRA", "LoHa", "LoKr", "GLoRA")


@dataclass(frozen=True)
class Group:
    """Layers of one kind in one component; ranges are least and most, None where there is none."""

    component: str
    kind: str
    num_layers: int
    ranks: tuple[int, int] | None
    alphas: tuple[float, float] | None


@dataclass(frozen=True)
class ShownAdapter:
    """The description of an adapter file.

    Attributes:
        made_by: Empty where the metadata names no tool.
        family: Empty where nothing tells.
        strength: How alpha stands to the weights, in a sentence.
        unused: A sentence for each reason for which tensors are not used.
        faults: Contradictions, because of which the file is not read.
    """

    path: str
    num_bytes: int
    num_tensors: int
    form: str
    made_by: str
    family: str
    is_supported: bool
    dtypes: Mapping[str, int]
    groups: tuple[Group, ...]
    strength: str
    unused: tuple[str, ...]
    faults: tuple[str, ...]
    metadata: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def lines(self) -> Iterable[str]:
        """Yield it as lines."""
        yield f"{'file':11}{clean(self.path)}"
        yield f"{'size':11}{show_size(self.num_bytes)}, {counted(self.num_tensors, 'tensor')}"
        yield f"{'form':11}{self.form or 'no adapter of a family that is read'}"
        yield f"{'made by':11}{clean(self.made_by, limit=_MOST_VALUE) or 'not said'}"
        supported = "" if self.is_supported else ", which is not supported here"
        yield f"{'family':11}{self.family or 'not told by its names and sizes'}{supported}"
        yield f"{'dtype':11}{', '.join(f'{d} {n}' for d, n in self.dtypes.items()) or 'none'}"
        for group in self.groups:
            yield f"{'layers':11}{_group_line(group)}"
        if self.strength:
            yield f"{'strength':11}{self.strength}"
        for line in self.unused:
            yield f"{'not used':11}{clean(line)}"
        for line in self.faults[:10]:
            yield f"{'fault':11}{clean(line)}"
        shown = list(self.metadata.items())[:_MOST_ENTRIES]
        for key, value in shown:
            yield f"{'metadata':11}{clean(key, limit=60)} = {clean(value, limit=_MOST_VALUE)}"
        if len(self.metadata) > len(shown):
            yield f"{'metadata':11}and {len(self.metadata) - len(shown)} more; all with --json"


def show_adapter(path: Path) -> ShownAdapter:
    """Describe an adapter file of any form; it is not loaded.

    Raises:
        RecipeError: There is no such file.
        RefusedError: It is a pickle, or not a plain file.
        CorruptError: It is no sound safetensors file.
    """
    refuse_pickle(path)
    try:
        header = check_safetensors(path)
        metadata = dict(header.pop("__metadata__", {}))
        keys = read_keys(header, metadata)
        with open_source(path) as file:
            num_bytes = file.seek(0, 2)
            wanted = [la.keys["alpha"] for la in keys.layers if "alpha" in la.keys]
            alphas = read_numbers(file, header, wanted)
    except UnsafeFileError as error:
        raise RefusedError(f"{path} {error.strerror}.", "Name a plain file.") from error
    except OSError as error:
        raise RecipeError(f"There is no file {path}.", "Name a .safetensors file.") from error
    return ShownAdapter(
        path=str(path),
        num_bytes=num_bytes,
        num_tensors=len(header),
        form=keys.form,
        made_by=maker_of(metadata),
        family=keys.family.name,
        is_supported=keys.family.is_supported,
        dtypes=dict(Counter(str(entry["dtype"]) for entry in header.values()).most_common(8)),
        groups=tuple(_groups(keys, alphas)),
        strength=_strength(keys, metadata, alphas),
        unused=tuple(keys.unused_lines()),
        faults=(*keys.faults, *_not_finite(alphas)),
        metadata=metadata,
    )


def _groups(keys: AdapterKeys, alphas: Mapping[str, float]) -> Iterable[Group]:
    found: dict[tuple[str, str], list[LayerKeys]] = {}
    for layer in keys.layers:
        kind = layer.kind.name
        if layer.is_dora:
            kind = "DoRA" if kind == "LoRA" else f"{kind} with DoRA"
        found.setdefault((layer.component, kind), []).append(layer)
    for (component, kind), layers in sorted(
        found.items(), key=lambda item: (COMPONENTS.index(item[0][0]), item[0][1])
    ):
        ranks = [la.kind.rank for la in layers if la.kind.rank is not None]
        own = [alphas[la.keys["alpha"]] for la in layers if la.keys.get("alpha") in alphas]
        yield Group(
            component,
            kind,
            len(layers),
            (min(ranks), max(ranks)) if ranks else None,
            (min(own), max(own)) if own else None,
        )


def _group_line(group: Group) -> str:
    parts = [f"{group.component}: {group.num_layers} {group.kind}"]
    for name, span in (("rank", group.ranks), ("alpha", group.alphas)):
        if span is not None:
            low, high = (f"{value:g}" for value in span)
            parts.append(f"{name} {low}" if low == high else f"{name} {low} to {high}")
    return ", ".join(parts)


def _not_finite(alphas: Mapping[str, float]) -> Iterable[str]:
    return [f"{key!r} is not finite" for key, value in alphas.items() if not math.isfinite(value)]


def _strength(keys: AdapterKeys, metadata: Mapping[str, str], alphas: Mapping[str, float]) -> str:
    scaled = [layer for layer in keys.layers if layer.kind.name in _HAS_ALPHA]
    if not scaled:
        return ""
    with_alpha = sum("alpha" in layer.keys for layer in scaled)
    if with_alpha == len(scaled):
        zeros = sum(value == 0 for value in alphas.values())
        but = f"; alpha is 0 in {counted(zeros, 'layer')}, where the rank is taken" if zeros else ""
        return "each layer's change is multiplied by alpha / rank" + but
    if with_alpha:
        return (
            f"{with_alpha} of {len(scaled)} layers have an alpha; in the others alpha is the rank"
        )
    if any(name in metadata for name in _CONFIGURATIONS):
        return "alpha is in the metadata, as PEFT's configuration"
    if keys.form == "PEFT":
        return "alpha is in the adapter_config.json beside it; without that it is the rank"
    return "no alpha is given: it is the rank"
