"""Single numbers of a safetensors file, read without a library for tensors."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

_FORMATS = {
    **{"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b"},
    **{"U64": "<Q", "U32": "<I", "U16": "<H", "U8": "<B", "BOOL": "<B"},
}
_BRAIN = "BF16"


def read_numbers(
    file: BinaryIO, header: Mapping[str, Any], keys: Iterable[str]
) -> dict[str, float]:
    """Return the numbers of one-element tensors whose entries were checked, by key.

    A tensor of another size, or of a dtype that is no number's, is left out.
    """
    file.seek(0)
    (header_bytes,) = struct.unpack("<Q", file.read(8))
    found = {}
    for key in keys:
        entry = header[key]
        layout = _FORMATS.get(entry["dtype"])
        if math.prod(entry["shape"]) != 1 or (layout is None and entry["dtype"] != _BRAIN):
            continue
        start, end = entry["data_offsets"]
        file.seek(8 + header_bytes + start)
        content = file.read(end - start)
        if layout is None:  # the upper half of a float32
            found[key] = struct.unpack("<f", b"\0\0" + content)[0]
        else:
            found[key] = float(struct.unpack(layout, content)[0])
    return found
