"""8-bit integers with a scale for each row, of LLM.int8() (Dettmers et al. 2022).

https://arxiv.org/abs/2208.07339. Weights alone are rounded; inputs stay in float, so that there are
no outliers to be held apart. It needs the optional package bitsandbytes.

For a large model: `base_model: {quantize: {name: bnb_int8}}`
"""

from __future__ import annotations

import torch
from torch import Tensor

from loba_tui.core.associate.quantized import Quantizer, ScaledRows

PACKAGE = "bitsandbytes"
_LARGEST = 127


def get_quantizer() -> Quantizer:
    """Return what packs weights with bitsandbytes' int8_vectorwise_quant."""
    return ScaledRows(torch.int8, _quantized)


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    from bitsandbytes.functional import int8_vectorwise_quant

    # Its kernel for CUDA takes float16 alone; taken everywhere, the bits are the same everywhere.
    numbers, row_maxima, _ = int8_vectorwise_quant(weight.half())
    return numbers, row_maxima / _LARGEST
