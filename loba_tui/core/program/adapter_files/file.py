"""Adapter files on disk: the same bytes for the same adapter, written whole, and read back."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from loba_tui.core.associate.safe_files import header_of, refuse_pickle
from loba_tui.core.errors import (
    CorruptError,
    NumericsError,
    RecipeError,
    RefusedError,
    ResourceError,
)
from loba_tui.core.file_sources import Source, path_of, read_source
from loba_tui.core.files import UnsafeFileError
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.program.adapter_files.losses import Losses

_ALIGNMENT = 8
_STARTS_AT_ZERO = re.compile(
    r"\.diff_b$|\.lora_B\.|\.lora_linear_layer\.up\.|\.lora_up\.|\.hada_w2_b$|\.lokr_w1$|\.lokr_w1_a$|\.oft_R\.weight$"
)
# As other programs make theirs: an adapter is for others to load, if the umask lets them.
_MODE = 0o666
_MAX_BYTES = 32 * 2**30


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written and read back.

    Attributes:
        lost: Parts of the adapter that this form of it does not hold; None where it holds all.
    """

    path: Path
    sha256: str
    num_bytes: int
    lost: Losses | None = None


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file whose bytes depend on nothing but its content.

    The library writes metadata in the order of a randomly seeded hash map, so that the same call
    gives other bytes each time; here it is put in sorted.
    """
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    content = safetensors.torch.save(plain)
    (header_bytes,) = struct.unpack("<Q", content[:8])
    header = {
        "__metadata__": {name: metadata[name] for name in sorted(metadata)},
        **parse_json(content[8 : 8 + header_bytes]),
    }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # Spaces are the format's own padding; tensors then start aligned for memory mapping.
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text + content[8 + header_bytes :]


def write_file(
    file: OwnedFile, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> WrittenFile:
    """Write an adapter in one piece, then read it back.

    Raises:
        NumericsError: A weight is not finite, or the adapter changes nothing.
        RefusedError: Its folder is reached through a link.
        ResourceError: The disk does not take it, or gives back something else.
    """
    check_weights(tensors)
    content = serialize(tensors, metadata)
    file.replace(content, mode=_MODE, sync=True)
    _read_back(file, tensors, metadata)
    return WrittenFile(file.path, hashlib.sha256(content).hexdigest(), len(content))


def read_file(source: Source) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors on the CPU, and metadata; raise as `read_checked` does."""
    _, tensors, metadata = read_checked(source)
    return tensors, metadata


def read_checked(source: Source) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """Return the header without metadata, the tensors on the CPU, and the metadata.

    Raises:
        RecipeError: There is no such file.
        RefusedError: It is a pickle, or not a plain file.
        CorruptError: It is damaged.
    """
    path = path_of(source)
    refuse_pickle(path)
    try:
        content = read_source(source, _MAX_BYTES)
    except FileNotFoundError as error:
        raise RecipeError(f"There is no adapter {path}.", "Name a .safetensors file.") from error
    except UnsafeFileError as error:
        raise RefusedError(f"The adapter {path} {error.strerror}.", "Name a plain file.") from error
    # The very bytes that were checked are read, whatever becomes of the file meanwhile.
    header = header_of(content, path)
    metadata = dict(header.pop("__metadata__", {}))
    try:
        return header, safetensors.torch.load(content), metadata
    except safetensors.SafetensorError as error:
        raise CorruptError(f"{path} cannot be read: {error}.", "Export it again.") from error


def check_weights(tensors: Mapping[str, Tensor]) -> None:
    """Raise `NumericsError` for weights that would poison or do nothing."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NumericsError(
                f"The adapter's {name} is not finite; it is not exported.",
                "Lower optimizer.lr, or take an earlier checkpoint.",
            )
    # What starts at zero: as long as all of it is, the adapter is the base model.
    ups = [t for name, t in tensors.items() if _STARTS_AT_ZERO.search(name)]
    if not any(bool(tensor.any()) for tensor in ups):
        raise NumericsError(
            "The adapter changes nothing: all its weights are zero; it is not exported.",
            "Train at least one step with a learning rate above 0.",
        )


def _read_back(file: OwnedFile, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    try:
        read, read_metadata = read_file(file)
        same = read.keys() == tensors.keys() and all(
            torch.equal(read[name], tensor.detach().cpu()) for name, tensor in tensors.items()
        )
    except CorruptError:
        same, read_metadata = False, {}
    if not same or read_metadata != dict(metadata):
        raise ResourceError(
            f"{file} does not read back as it was written.", "Check the disk, and export again."
        )
