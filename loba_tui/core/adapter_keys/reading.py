"""An adapter file by its header alone: its layers, its form, and what in it cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loba_tui.core.adapter_keys.families import Family, family_of_keys
from loba_tui.core.adapter_keys.kinds import (
    LENGTHS,
    NUMBERS,
    ContradictoryLayer,
    LayerKind,
    Shape,
    UnusableLayer,
    kind_of_parts,
)
from loba_tui.core.adapter_keys.names import Component, KeyMeaning, Unknown, meaning_of

WEIGHT_DTYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""Dtypes that weights are read of; others are codes that need a table to be weights."""
_NUMBER_DTYPES = frozenset({"I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL"})


@dataclass(frozen=True)
class LayerKeys:
    """A layer of an adapter file: which tensors it is made of, and what they make.

    Attributes:
        module: By diffusers' names, and transformers' for text encoders.
        keys: Tensors' keys by part.
        shapes: Their shapes by part.
    """

    component: Component
    module: str
    kind: LayerKind
    keys: Mapping[str, str]
    shapes: Mapping[str, Shape]

    @property
    def is_dora(self) -> bool:
        """Whether it has a length for each output or input."""
        return bool(self.keys.keys() & LENGTHS)


@dataclass(frozen=True)
class UnusedKey:
    """Tensor of a file that is not used; the reason is a clause about it."""

    key: str
    reason: str


@dataclass(frozen=True)
class AdapterKeys:
    """The header of an adapter file, understood.

    Attributes:
        form: Whose keys most layers have.
        faults: Contradictions, each a sentence; a file with one is not read.
    """

    layers: tuple[LayerKeys, ...]
    form: str
    family: Family
    unused: tuple[UnusedKey, ...]
    faults: tuple[str, ...]

    def unused_lines(self) -> list[str]:
        """Return a sentence for each reason, with how many tensors and the first of them."""
        by_reason: dict[str, list[str]] = {}
        for each in self.unused:
            by_reason.setdefault(each.reason, []).append(each.key)
        return [
            f"{len(keys)} tensor{'s' if len(keys) > 1 else ''} not used,"
            f" {'as ' if len(keys) > 1 else ''}{keys[0][:100]!r}: {reason}"
            for reason, keys in by_reason.items()
        ]


def read_keys(header: Mapping[str, Any], metadata: Mapping[str, str]) -> AdapterKeys:
    """Understand a checked safetensors header: key to dtype and shape."""
    found: dict[tuple[Component, str], dict[str, str]] = {}
    forms: Counter[str] = Counter()
    unused, faults = [], []
    for key, entry in header.items():
        meaning = _usable(key, str(entry["dtype"]))
        if isinstance(meaning, Unknown):
            unused.append(UnusedKey(key, meaning.reason))
            continue
        parts = found.setdefault((meaning.component, meaning.module), {})
        if meaning.part in parts:
            faults.append(f"{parts[meaning.part][:100]!r} and {key[:100]!r} are the same weights")
        parts[meaning.part] = key
        forms[meaning.form] += 1
    layers = []
    for (component, module), keys in found.items():
        shapes = {part: tuple(header[key]["shape"]) for part, key in keys.items()}
        try:
            layers.append(LayerKeys(component, module, kind_of_parts(shapes), keys, shapes))
        except UnusableLayer as error:
            unused += [UnusedKey(key, f"{module}: {error}") for key in keys.values()]
        except ContradictoryLayer as error:
            faults.append(f"{module}: {error}")
    form = forms.most_common(1)[0][0] if forms else ""
    family = family_of_keys(header, metadata, layers)
    return AdapterKeys(tuple(layers), form, family, tuple(unused), tuple(faults))


def _usable(key: str, dtype: str) -> KeyMeaning | Unknown:
    meaning = meaning_of(key)
    if isinstance(meaning, Unknown) or dtype in WEIGHT_DTYPES:
        return meaning
    if meaning.part in NUMBERS and dtype in _NUMBER_DTYPES:
        return meaning
    return Unknown(f"of dtype {dtype[:20]}, which are not weights by themselves")
