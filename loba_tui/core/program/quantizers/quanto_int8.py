"""8-bit integers with a scale for each row, as optimum-quanto has them.

https://github.com/huggingface/optimum-quanto. It needs the optional package optimum-quanto.

For a large model: `base_model: {quantize: {name: quanto_int8}}`
"""

from __future__ import annotations

import torch
from torch import Tensor

from loba_tui.core.associate.quantized import Quantizer, ScaledRows

PACKAGE = "optimum-quanto"


def get_quantizer() -> Quantizer:
    """Return what packs weights with quanto's qint8."""
    return ScaledRows(torch.int8, _quantized)


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    from optimum.quanto import AbsmaxOptimizer, qint8, quantize_weight

    scale = AbsmaxOptimizer()(weight, qtype=qint8, axis=0)
    made = quantize_weight(weight, qtype=qint8, axis=0, scale=scale)
    return made._data, made._scale
