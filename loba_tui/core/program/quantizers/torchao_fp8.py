"""8-bit floats (e4m3) with a scale for each row, as torchao's float8 weight-only quantisation has.

https://github.com/pytorch/ao. As large as int8; large and small weights of a row keep the same
number of digits, three bits. It needs the optional package torchao.

For a large model: `base_model: {quantize: {name: torchao_fp8}}`
"""

from __future__ import annotations

import torch
from torch import Tensor

from loba_tui.core.associate.quantized import Quantizer, ScaledRows

PACKAGE = "torchao"


def get_quantizer() -> Quantizer:
    """Return what packs weights with torchao's Float8Tensor."""
    return ScaledRows(torch.float8_e4m3fn, _quantized)


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    from torchao.quantization import Float8Tensor, PerRow

    made = Float8Tensor.from_hp(weight, torch.float8_e4m3fn, PerRow())
    return made.qdata, made.scale
