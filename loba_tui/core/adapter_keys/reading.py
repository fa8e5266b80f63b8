"""An adapter file by its header alone: its layers, its form, and what in it cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loba_tui.core.adapter_keys.families import Family, family_of_keys, family_of_transformers
from loba_tui.core.adapter_keys.kinds import (
    LENGTHS,
    NUMBERS,
    ContradictoryLayer,
    LayerKind,
    Shape,
    UnusableLayer,
    kind_of_parts,
)
from loba_tui.core.adapter_keys.names import (
    DENOISERS,
    Component,
    KeyMeaning,
    Unknown,
    denoiser_name,
    meaning_of,
)
from loba_tui.core.adapter_keys.parts import split_part
from loba_tui.core.adapter_keys.transformers.families import TransformerFamily
from loba_tui.core.adapter_keys.transformers.layout import TransformerLayout
from loba_tui.core.adapter_keys.transformers.reading import families_of

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
        spans: Which of the outputs are the module's, in its order, where the tensors are those of
            a matrix that several modules share; () where all are, as they are.
    """

    component: Component
    module: str
    kind: LayerKind
    keys: Mapping[str, str]
    shapes: Mapping[str, Shape]
    spans: tuple[tuple[int, int], ...] = ()

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
    transformers = _transformers_of(header, metadata)
    layout = transformers[0].layout if transformers else None
    found: dict[tuple[Component, str], dict[str, str]] = {}
    forms: Counter[str] = Counter()
    unused, faults = [], []
    for key, entry in header.items():
        meaning = _usable(key, str(entry["dtype"]), layout)
        if isinstance(meaning, Unknown):
            unused.append(UnusedKey(key, meaning.reason))
            continue
        parts = found.setdefault((meaning.component, meaning.module), {})
        if meaning.part in parts:
            faults.append(f"{parts[meaning.part][:100]!r} and {key[:100]!r} are the same weights")
        parts[meaning.part] = key
        forms[meaning.form] += 1
    layers: list[LayerKeys] = []
    for (component, module), keys in found.items():
        shapes = {part: tuple(header[key]["shape"]) for part, key in keys.items()}
        try:
            layer = LayerKeys(component, module, kind_of_parts(shapes), keys, shapes)
            layers += [layer] if layout is None else _modules_of(layer, layout)
        except UnusableLayer as error:
            unused += [UnusedKey(key, f"{module}: {error}") for key in keys.values()]
        except ContradictoryLayer as error:
            faults.append(f"{module}: {error}")
    if layout is not None:
        faults += _twice(layers)
    form = forms.most_common(1)[0][0] if forms else ""
    if transformers:
        family = family_of_transformers(transformers)
    else:
        family = family_of_keys(header, metadata, layers)
    return AdapterKeys(tuple(layers), form, family, tuple(unused), tuple(faults))


def _transformers_of(
    header: Mapping[str, Any], metadata: Mapping[str, str]
) -> tuple[TransformerFamily, ...]:
    """Return the transformers that a file can be for; () where it is for none of those known."""
    parts: dict[str, dict[str, Shape]] = {}
    for key, entry in header.items():
        name = denoiser_name(key)
        split = split_part(key)
        if name is not None and split is not None:
            parts.setdefault(name, {})[split[1]] = tuple(entry["shape"])
    sizes: dict[str, tuple[int, int]] = {}
    for name, shapes in parts.items():
        try:
            shape = kind_of_parts(shapes).weight_shape or ()
        except (UnusableLayer, ContradictoryLayer):
            continue
        if len(shape) > 1 and shape[1]:
            sizes[name] = (shape[0], shape[1])
    return families_of(sizes, parts, metadata)


def _modules_of(layer: LayerKeys, layout: TransformerLayout) -> list[LayerKeys]:
    """Return a layer by diffusers' names, of which it can be several in one matrix."""
    if layer.component not in DENOISERS:
        return [layer]
    found = []
    for module, original in layout.modules(layer.module):
        spans: tuple[tuple[int, int], ...] = ()
        shape = layer.kind.weight_shape or ()
        if original is not None and len(shape) > 1:
            spans = original.spans(*shape[:2])
        elif original is not None and (original.share is not None or original.swaps_halves):
            raise UnusableLayer(f"{layer.kind.name} does not say how large the shared matrix is")
        found.append(replace(layer, module=module, spans=spans))
    return found


def _twice(layers: Sequence[LayerKeys]) -> list[str]:
    """Return a sentence for each module that a file has under two names."""
    counts = Counter((layer.component, layer.module) for layer in layers)
    return [f"{module} is there under two names" for (_, module), n in counts.items() if n > 1]


def _usable(key: str, dtype: str, layout: TransformerLayout | None) -> KeyMeaning | Unknown:
    meaning = meaning_of(key, layout)
    if isinstance(meaning, Unknown) or dtype in WEIGHT_DTYPES:
        return meaning
    if meaning.part in NUMBERS and dtype in _NUMBER_DTYPES:
        return meaning
    return Unknown(f"of dtype {dtype[:20]}, which are not weights by themselves")
