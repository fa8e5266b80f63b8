"""4 bits a number: the quantiles of a normal distribution (Dettmers et al. 2023, QLoRA).

https://arxiv.org/abs/2305.14314. An eighth of float32 and a quarter of bfloat16, and a scale for
each block of weights. It needs the optional package bitsandbytes.

For a large model: `base_model: {quantize: {name: bnb_nf4}}`
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from loba_tui.core.associate.quantized import Parts, Quantizer

PACKAGE = "bitsandbytes"


def get_quantizer(*, block_size: Literal[64, 128, 256, 512] = 64) -> Quantizer:
    """Return what packs weights with bitsandbytes' quantize_4bit.

    Args:
        block_size: Weights that share a scale; more are a little smaller and less exact.
    """
    return _NormalFloat4(block_size)


@dataclass(frozen=True)
class _NormalFloat4:
    """Packs a weight as one row: bitsandbytes' kernel for CPUs is wrong where a block spans two."""

    block_size: int

    def pack(self, weight: Tensor) -> Parts:
        from bitsandbytes.functional import quantize_4bit

        numbers, state = quantize_4bit(
            weight.flatten(), blocksize=self.block_size, quant_type="nf4"
        )
        return {"numbers": numbers.flatten(), "scale": state.absmax}

    def unpack(self, parts: Parts, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        numbers, scale = parts["numbers"], parts["scale"]
        if numbers.is_meta:
            return torch.empty(shape, dtype=dtype, device="meta")
        from bitsandbytes.functional import QuantState, dequantize_4bit

        row = torch.Size([shape.numel()])
        state = QuantState(scale, row, blocksize=self.block_size, quant_type="nf4", dtype=dtype)
        return dequantize_4bit(numbers[:, None], state).reshape(shape)

    def parts(self, shape: torch.Size) -> Parts:
        num = shape.numel()
        return {
            "numbers": torch.empty(math.ceil(num / 2), dtype=torch.uint8, device="meta"),
            "scale": torch.empty(
                math.ceil(num / self.block_size), dtype=torch.float32, device="meta"
            ),
        }
