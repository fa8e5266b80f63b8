"""The weight files of a model's components: what they will take, and which two are the same."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Collection
from pathlib import Path
from types import MappingProxyType

import torch

from loba_tui.core.associate.one_file.header import read_header
from loba_tui.core.associate.sources.locate import ModelSource, read_index
from loba_tui.core.errors import LobaError

_FILE_NAME = re.compile(r"[^.]+(?:\.(?P<variant>[^.]+?))?(?:-\d{5}-of-\d{5})?\.safetensors")
# The hub's client names a large file's content by its sha256, and links to it.
_BLOB = re.compile(r"[0-9a-f]{64}")
_PREFIXES = MappingProxyType(
    {
        "unet": ("model.diffusion_model.",),
        "vae": ("first_stage_model.", "vae."),
        "text_encoder": ("conditioner.embedders.0.", "cond_stage_model."),
        "text_encoder_2": ("conditioner.embedders.1.",),
    }
)
"""How the names of a component's weights begin in a checkpoint of one file."""


def component_folder(source: ModelSource, component: str) -> Path:
    """Return the folder of a component's configuration, and of its weights where it has any."""
    if component == "vae" and source.vae is not None and source.vae.is_dir():
        return source.vae
    return source.folder / component


def weight_files(source: ModelSource, component: str, variant: str | None) -> list[Path]:
    """Return the safetensors files that a component is loaded from; [] for one without weights.

    Without the variant they are the plain ones, or those of the only variant that there is.
    """
    if component == "vae" and source.vae is not None and source.vae.is_file():
        return [source.vae]
    folder = component_folder(source, component)
    if source.file is not None and folder != source.vae:
        return [source.file] if component in _PREFIXES else []
    found = sorted(folder.glob("*.safetensors"))
    of_variant = [path for path in found if variant_of(path) == variant]
    plain = [path for path in found if variant_of(path) is None]
    alone = found if len({variant_of(path) for path in found}) == 1 else []
    return of_variant or plain or alone


def weights_bytes(
    source: ModelSource, names: Collection[str], *, dtype: torch.dtype, variant: str | None
) -> int:
    """Return what components will take in memory, from the headers of their files alone.

    Raises:
        CorruptError: A file cannot be read, or its header is damaged.
    """
    total = 0
    for name in names:
        for path in weight_files(source, name, variant):
            header, _ = read_header(path)
            for key, tensor in header.items():
                if path == source.file and not key.startswith(_PREFIXES[name]):
                    continue
                is_float = tensor["dtype"].startswith(("F", "BF"))
                start, end = tensor["data_offsets"]
                total += math.prod(tensor["shape"]) * dtype.itemsize if is_float else end - start
    return total


def variant_of(path: Path) -> str | None:
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
        [
            *sorted(component_folder(source, name).glob("*.json")),
            *weight_files(source, name, variant),
        ]
        for source, variant in zip((one, other), variants, strict=True)
    ]
    facts = [[(path.name, path.stat().st_size) for path in each] for each in files]
    if facts[0] != facts[1] or not any(path.suffix == ".safetensors" for path in files[0]):
        return False
    return all(
        mine.samefile(theirs) or _content(mine) == _content(theirs)
        for mine, theirs in zip(*files, strict=True)
    )


def _content(path: Path) -> str:
    if path.is_symlink():
        target = os.path.basename(os.readlink(path))
        if _BLOB.fullmatch(target):
            return target
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
