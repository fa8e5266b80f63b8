"""Which transformer a file's layers are of, told by their names, its metadata and their sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from loba_tui.core.adapter_keys.transformers.families import (
    TRANSFORMERS,
    TransformerFamily,
    of_metadata,
)

_MOST_NAMES = 4000
# Others that have the names of one of these in part, by what files say of them.
_OTHERS = re.compile(r"lumina|chroma|hunyuan|auraflow|wan2|flux[._-]?3", re.IGNORECASE)
# Rows over columns of the layers whose names FLUX.1 and FLUX.2 share and whose sizes they do not.
_SHAPES: Mapping[str, Mapping[float, str]] = MappingProxyType(
    {
        "linear1": {7.0: "FLUX.1", 9.0: "FLUX.2"},
        "linear2": {1 / 5: "FLUX.1", 1 / 4: "FLUX.2"},
        "mlp_0": {4.0: "FLUX.1", 6.0: "FLUX.2"},
        "mlp_2": {1 / 4: "FLUX.1", 1 / 3: "FLUX.2"},
    }
)
# Widths that one of the families alone has; 3072 is that of three.
_WIDTHS = MappingProxyType(
    {
        1536: "SD 3",
        2432: "SD 3",
        4096: "FLUX.2",
        6144: "FLUX.2",
    }
)
_LUMINA_2_WIDTH = 2304
_ATTENTION = re.compile(r"attn[._](?:to_[qkv]|add_[qkv]_proj|qkv)$|attention[._](?:to_[qkv]|qkv)$")

Sizes = Mapping[str, tuple[int, int]]
"""Rows and columns of layers by their names, as far as a file tells them."""


def families_of(
    sizes: Sizes, names: Iterable[str], metadata: Mapping[str, str] = MappingProxyType({})
) -> tuple[TransformerFamily, ...]:
    """Return the families that a file's layers can be of; one where anything tells, () for none.

    Args:
        sizes: Of those of the layers whose parts say it.
        names: Of the layers, by any naming, with dots or underscores.
    """
    keys = ("modelspec.architecture", "ss_base_model_version")
    said = " ".join(metadata.get(key, "")[:100] for key in keys)
    if _OTHERS.search(said):
        return ()
    few = [name for name, _ in zip(dict.fromkeys(names), range(_MOST_NAMES), strict=False)]
    known = {family.name: sum(_knows(family, name) for name in few) for family in TRANSFORMERS}
    most = max(known.values())
    if 2 * most <= len(few):  # of another model, a few of whose layers have such names
        return ()
    found = tuple(family for family in TRANSFORMERS if known[family.name] == most)
    named = of_metadata(metadata)
    if named in found:
        return (named,)
    return _by_sizes(found, sizes)


def _knows(family: TransformerFamily, name: str) -> bool:
    try:
        family.layout.modules(name)
    except KeyError:
        return False
    return True


def _by_sizes(found: Sequence[TransformerFamily], sizes: Sizes) -> tuple[TransformerFamily, ...]:
    for name, (rows, columns) in sizes.items():
        if not columns:
            continue
        flat = name.replace(".", "_")
        if _ATTENTION.search(name) and columns == _LUMINA_2_WIDTH:
            return ()
        told = next(
            (by.get(rows / columns) for end, by in _SHAPES.items() if flat.endswith(end)), None
        )
        if told is None and _ATTENTION.search(name):
            told = _WIDTHS.get(columns)
        for family in found:
            if family.name == told:
                return (family,)
    return tuple(found)
