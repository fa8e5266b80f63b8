"""A safetensors file read tensor by tensor: a checkpoint never lies in memory whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from loba_tui.core.associate.safe_files import header_of_stream, refuse_pickle
from loba_tui.core.errors import CorruptError, RecipeError, RefusedError
from loba_tui.core.file_sources import Source, open_source, path_of
from loba_tui.core.files import UnsafeFileError

FLOATS = MappingProxyType(
    {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
    }
)
"""Dtypes of weights by their names in a header."""
_MOST_TENSOR_BYTES = 16 * 2**30


@dataclass(frozen=True)
class TensorFile:
    """An open safetensors file whose header was checked.

    Attributes:
        entries: Dtype, shape and offsets of each tensor, in the order of the data.
        start: The first byte of the tensors.
    """

    path: Path
    entries: dict[str, Any]
    metadata: dict[str, str]
    start: int
    stream: BufferedReader

    def bytes_of(self, name: str) -> bytearray:
        """Return a tensor's bytes."""
        begin, end = self.entries[name]["data_offsets"]
        if end - begin > _MOST_TENSOR_BYTES:
            raise CorruptError(f"{self.path}: {name[:100]!r} has {end - begin} bytes.")
        content = bytearray(end - begin)
        self.stream.seek(self.start + begin)
        if self.stream.readinto(content) != len(content):
            raise CorruptError(f"{self.path} became shorter while it was read.", "Fetch it again.")
        return content

    def read(self, name: str) -> Tensor:
        """Return a tensor in its own dtype, one of `FLOATS`."""
        entry = self.entries[name]
        content = self.bytes_of(name)
        dtype = FLOATS[entry["dtype"]]
        if not content:
            return torch.empty(entry["shape"], dtype=dtype)
        return torch.frombuffer(content, dtype=dtype).reshape(entry["shape"])

    def is_float(self, name: str) -> bool:
        """Say whether a tensor has weights."""
        return self.entries[name]["dtype"] in FLOATS


@contextmanager
def opened(source: Source) -> Iterator[TensorFile]:
    """Lend a file whose header is sound.

    Raises:
        RecipeError: There is no such file.
        RefusedError: It is a pickle, or not a plain file.
        CorruptError: It is damaged.
    """
    path = path_of(source)
    refuse_pickle(path)
    try:
        stream = open_source(source)
    except FileNotFoundError as error:
        raise RecipeError(f"There is no file {path}.", "Name a .safetensors file.") from error
    except UnsafeFileError as error:
        raise RefusedError(f"{path} {error.strerror}.", "Name a plain file.") from error
    with stream:
        header = header_of_stream(stream, path)
        metadata = dict(header.pop("__metadata__", {}))
        entries = dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))
        yield TensorFile(path, entries, metadata, stream.tell(), stream)
