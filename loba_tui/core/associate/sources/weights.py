"""The weight files of a model's components: what they will take, and which two are the same."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Collection
from pathlib import Path

import torch

from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.associate.sources.locate import ModelSource, read_index
from loba_tui.core.errors import LobaError

_FILE_NAME = re.compile(r"[^.]+(?:\.(?P<variant>[^.]+?))?(?:-\d{5}-of-\d{5})?\.safetensors")
# The hub's client names a large file's content by its sha256, and links to it.
_BLOB = re.compile(r"[0-9a-f]{64}")


def weight_files(source: ModelSource, component: str, variant: str | None) -> list[Path]:
    """Return the safetensors files that a component is loaded from; [] for one without weights."""
    found = sorted((source.folder / component).glob("*.safetensors"))
    of_variant = [path for path in found if _variant_of(path) == variant]
    return of_variant or [path for path in found if _variant_of(path) is None]


def weights_bytes(
    source: ModelSource, names: Collection[str], *, dtype: torch.dtype, variant: str | None
) -> int:
    """Return what components will take in memory, from the headers of their files alone."""
    total = 0
    for name in names:
        for path in weight_files(source, name, variant):
            header = check_safetensors(path)
            for tensor in (each for key, each in header.items() if key != "__metadata__"):
                is_float = tensor["dtype"].startswith(("F", "BF"))
                start, end = tensor["data_offsets"]
                total += math.prod(tensor["shape"]) * dtype.itemsize if is_float else end - start
    return total


def _variant_of(path: Path) -> str | None:
    """Return the variant in a file's name: model.fp16-00001-of-00002.safetensors has fp16."""
    found = _FILE_NAME.fullmatch(path.name)
    return found["variant"] if found else None


def is_same_component(
    one: ModelSource, other: ModelSource, name: str, *, variants: tuple[str | None, str | None]
) -> bool:
    """Say whether two models have the same component: class, configuration and weights.

    Contents are read where names and sizes agree, unless the hub's cache knows their checksums.
    What cannot be read any more is not the same.
    """
    try:
        return _is_same(one, other, name, variants)
    except (OSError, LobaError):
        return False


def _is_same(
    one: ModelSource, other: ModelSource, name: str, variants: tuple[str | None, str | None]
) -> bool:
    if read_index(one).get(name) != read_index(other).get(name):
        return False
    files = [
        [*sorted((source.folder / name).glob("*.json")), *weight_files(source, name, variant)]
        for source, variant in zip((one, other), variants, strict=True)
    ]
    facts = [[(path.name, path.stat().st_size) for path in each] for each in files]
    if facts[0] != facts[1] or not any(path.suffix == ".safetensors" for path in files[0]):
        return False
    return all(_content(mine) == _content(theirs) for mine, theirs in zip(*files, strict=True))


def _content(path: Path) -> str:
    if path.is_symlink():
        target = os.path.basename(os.readlink(path))
        if _BLOB.fullmatch(target):
            return target
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
