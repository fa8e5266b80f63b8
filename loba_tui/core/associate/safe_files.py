"""Checks of a weight file before it is parsed: its kind, and the shape of its header."""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from loba_tui.core.errors import CorruptError, RefusedError
from loba_tui.core.file_sources import Source, open_source, path_of
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.text import clean

MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSORS = 20_000
_MAX_DIMENSIONS = 64
_MAX_NUMBER = 2**63
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")

_ITEM_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip

_Corrupt = Callable[[str], CorruptError]


def refuse_pickle(path: Path) -> None:
    """Raise `RefusedError` for a file that can run code when it is loaded."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise RefusedError(
            f"{path.name} is a pickle file; loading one can run any code that is in it.",
            f"Convert it to safetensors on a machine you can throw away{_converter(path)}, or take"
            " the safetensors version that most authors publish.",
        )


def _converter(path: Path) -> str:
    if path.suffix.lower() != ".ckpt":
        return ""
    return (
        " (for example with diffusers' convert_original_stable_diffusion_to_diffusers.py"
        " --to_safetensors)"
    )


def check_safetensors(source: Source) -> dict[str, Any]:
    """Check a safetensors file's header before any library parses it.

    Returns:
        The header: tensor name to dtype, shape and offsets, and `__metadata__`, which is a table of
        text to text, if there is one.

    Raises:
        CorruptError: Truncated, oversized or contradictory, with what is wrong.
        OSError: It is missing, or not a plain file.
    """
    with open_source(source) as file:
        return _checked(file, os.fstat(file.fileno()).st_size, path_of(source))


def header_of_stream(file: BinaryIO, path: Path) -> dict[str, Any]:
    """Check the header of a file that is open at its start, as `check_safetensors` does.

    The stream stands at the first byte of the tensors after it.
    """
    return _checked(file, os.fstat(file.fileno()).st_size, path)


def header_of(content: bytes, path: Path) -> dict[str, Any]:
    """Check the header of a safetensors file that was read, as `check_safetensors` does."""
    return _checked(io.BytesIO(content), len(content), path)


def _checked(file: BinaryIO, size: int, path: Path) -> dict[str, Any]:
    def corrupt(reason: str) -> CorruptError:
        return CorruptError(
            f"{clean(path.name)} is not a sound safetensors file: {reason}.", "Fetch it again."
        )

    prefix = file.read(8)
    if len(prefix) < 8:
        raise corrupt(f"it has {size} bytes")
    (header_bytes,) = struct.unpack("<Q", prefix)
    if header_bytes > MAX_HEADER_BYTES or header_bytes > size - 8:
        if prefix.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
            raise corrupt("it is a web page, as sites send where a login is needed")
        raise corrupt(f"its header claims {header_bytes} bytes")
    raw = file.read(header_bytes)
    try:
        header = parse_json(raw, unique_keys=True)
    except ValueError as error:
        raise corrupt(f"its header cannot be read ({clean(error, limit=200)})") from error
    if not isinstance(header, dict):
        raise corrupt("its header is not a table")
    if header.get("__metadata__", "") is None:
        del header["__metadata__"]
    _check_metadata(header.get("__metadata__", {}), corrupt)
    tensors = {key: entry for key, entry in header.items() if key != "__metadata__"}
    if len(tensors) > MAX_TENSORS:
        raise corrupt(f"it lists {len(tensors)} tensors, more than {MAX_TENSORS}")
    _check_offsets(tensors, size - 8 - header_bytes, corrupt)
    return header


def _check_metadata(metadata: Any, corrupt: _Corrupt) -> None:
    """Check that metadata is a table of text to text, as the format has it."""
    if not isinstance(metadata, dict):
        raise corrupt("its metadata is not a table")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise corrupt(f"its metadata {_shown(key)} is not a text")
        if not (_is_text(key) and _is_text(value)):
            raise corrupt(f"its metadata {_shown(key)} holds half a character")


def _check_offsets(tensors: dict[str, Any], data_bytes: int, corrupt: _Corrupt) -> None:
    """Check that the tensors cover the data without a gap, an overlap or a wrong length."""
    spans = []
    for name, entry in tensors.items():
        if not _is_entry(entry) or not _is_text(name):
            raise corrupt(f"the entry of {_shown(name)} is malformed")
        (start, end), shape = entry["data_offsets"], entry["shape"]
        bits = _ITEM_BITS.get(entry["dtype"])
        if end < start or (bits is not None and (end - start) * 8 != math.prod(shape) * bits):
            raise corrupt(f"the size of {_shown(name)} contradicts its shape")
        spans.append((start, end))
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise corrupt("its tensors overlap or leave gaps")
        position = end
    if position != data_bytes:
        raise corrupt(f"it declares {position} bytes of data and has {data_bytes}")


def _is_entry(entry: Any) -> bool:
    """Say whether a tensor's entry has what belongs in one; a switch is no number."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    offsets, shape = entry.get("data_offsets"), entry.get("shape")
    if not (isinstance(offsets, list) and len(offsets) == 2):
        return False
    # The product of many long numbers would take for ever.
    if not (isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS):
        return False
    return all(type(n) is int and 0 <= n < _MAX_NUMBER for n in (*offsets, *shape))


def _is_text(text: str) -> bool:
    """Say whether text can be written down: JSON can spell half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    return f"'{clean(name, limit=80)}'"
