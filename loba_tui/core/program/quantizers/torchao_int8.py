"""8-bit integers with a scale for each row, as torchao's int8 weight-only quantisation has them.

https://github.com/pytorch/ao. A quarter of float32 and half of bfloat16. It needs the optional
package torchao.

For a large model: `base_model: {quantize: {name: torchao_int8}}`
"""

from __future__ import annotations

import torch
from torch import Tensor

from loba_tui.core.associate.quantized import Quantizer, ScaledRows

PACKAGE = "torchao"


def get_quantizer() -> Quantizer:
    """Return what packs weights with torchao's Int8Tensor."""
    return ScaledRows(torch.int8, _quantized)


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    from torchao.quantization import Int8Tensor, PerRow

    made = Int8Tensor.from_hp(weight, PerRow())
    return made.qdata, made.scale
