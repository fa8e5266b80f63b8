"""Checks of a weight file before it is parsed: its kind, and the shape of its header."""

from __future__ import annotations

import io
import json
import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from loba_tui.core.errors import CorruptError, RefusedError
from loba_tui.core.file_sources import Source, open_source, path_of

MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSORS = 20_000
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")

_ITEM_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip


def refuse_pickle(path: Path) -> None:
    """Raise `RefusedError` for a file that can run code when it is loaded."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise RefusedError(
            f"{path.name} is a pickle file; loading one can run any code that is in it.",
            "Convert it to safetensors on a machine you can throw away (for example with "
            "diffusers' convert_original_stable_diffusion_to_diffusers.py --to_safetensors), "
            "or take the safetensors version that most authors publish.",
        )


def check_safetensors(source: Source) -> dict[str, Any]:
    """Check a safetensors file's header before any library parses it.

    Returns:
        The header: tensor name to dtype, shape and offsets, and `__metadata__` if there is one.

    Raises:
        CorruptError: Truncated, oversized or contradictory, with what is wrong.
        OSError: It is missing, or not a plain file.
    """
    with open_source(source) as file:
        return _checked(file, os.fstat(file.fileno()).st_size, path_of(source))


def header_of(content: bytes, path: Path) -> dict[str, Any]:
    """Check the header of a safetensors file that was read, as `check_safetensors` does."""
    return _checked(io.BytesIO(content), len(content), path)


def _checked(file: BinaryIO, size: int, path: Path) -> dict[str, Any]:
    def corrupt(reason: str) -> CorruptError:
        return CorruptError(
            f"{path.name} is not a sound safetensors file: {reason}.", "Fetch it again."
        )

    prefix = file.read(8)
    if len(prefix) < 8:
        raise corrupt(f"it has {size} bytes")
    (header_bytes,) = struct.unpack("<Q", prefix)
    if header_bytes > MAX_HEADER_BYTES or header_bytes > size - 8:
        raise corrupt(f"its header claims {header_bytes} bytes")
    raw = file.read(header_bytes)
    try:
        header = json.loads(raw, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise corrupt(f"its header cannot be read ({error})") from error
    if not isinstance(header, dict):
        raise corrupt("its header is not a table")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(tensors) > MAX_TENSORS:
        raise corrupt(f"it lists {len(tensors)} tensors, more than {MAX_TENSORS}")
    _check_offsets(tensors, size - 8 - header_bytes, corrupt)
    return header


def _check_offsets(tensors: dict[str, Any], data_bytes: int, corrupt: Any) -> None:
    """Check that the tensors cover the data without a gap, an overlap or a wrong length."""
    spans = []
    for name, entry in tensors.items():
        try:
            start, end = entry["data_offsets"]
            shape, bits = entry["shape"], _ITEM_BITS.get(entry["dtype"])
            sound = all(isinstance(n, int) and n >= 0 for n in (start, end, *shape))
        except (KeyError, TypeError, ValueError) as error:
            raise corrupt(f"the entry of {name[:80]!r} is malformed") from error
        if not sound or (bits is not None and (end - start) * 8 != math.prod(shape) * bits):
            raise corrupt(f"the size of {name[:80]!r} contradicts its shape")
        spans.append((start, end))
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise corrupt("its tensors overlap or leave gaps")
        position = end
    if position != data_bytes:
        raise corrupt(f"it declares {position} bytes of data and has {data_bytes}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is there twice")
    return table
