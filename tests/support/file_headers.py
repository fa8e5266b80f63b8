"""Safetensors files that have a header, and as data nothing but a hole in the disk."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

_BITS = {"F32": 32, "F16": 16, "BF16": 16, "I8": 8, "F8_E4M3": 8}
_UNET = "model.diffusion_model."
_PARTS = {
    f"{_UNET}input_blocks.0.0.weight": [320, 4, 3, 3],
    "first_stage_model.encoder.conv_in.weight": [128, 3, 3, 3],
    "first_stage_model.decoder.conv_in.weight": [512, 4, 3, 3],
}
_TOLD = f"{_UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
ORDINARY = MappingProxyType(
    {
        "sdxl": {
            **_PARTS,
            f"{_UNET}label_emb.0.0.weight": [1280, 2816],
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": [768],
            "conditioner.embedders.1.model.transformer.resblocks.0.ln_1.weight": [1280],
        },
        "sd1": {
            **_PARTS,
            _TOLD: [320, 768],
            "cond_stage_model.transformer.text_model.final_layer_norm.weight": [768],
        },
        "sd2": {
            **_PARTS,
            _TOLD: [320, 1024],
            "cond_stage_model.model.transformer.resblocks.0.ln_1.weight": [1024],
        },
    }
)
"""By family: enough names to tell it by."""


def write_header(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    *,
    dtype: str = "F16",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a file of tensors of these shapes, which take no room on the disk."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * _BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + at)
    return path
