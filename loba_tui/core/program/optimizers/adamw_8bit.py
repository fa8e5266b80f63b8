"""AdamW whose moments are kept in 8 bits (Dettmers et al. 2021, https://arxiv.org/abs/2110.02861).

A quarter of AdamW's memory, for tensors of at least `min_8bit_size` elements; smaller ones stay in
32 bits. It needs the optional package bitsandbytes, and runs on CUDA and on the CPU.

For a slider: `optimizer: {name: adamw_8bit, lr: 5.0e-4}`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import PositiveInt

from loba_tui.core.errors import ResourceError
from loba_tui.core.program.training.adam_options import AdamOptions


def get_optimizer(
    params: Iterable[Any], lr: float, *, options: AdamOptions, min_8bit_size: PositiveInt = 4096
) -> torch.optim.Optimizer:
    """Return bitsandbytes' AdamW8bit over `params` (tensors or parameter groups).

    Args:
        params: What is trained.
        lr: Learning rate.
        options: Of AdamW.
        min_8bit_size: Smaller tensors keep 32-bit moments; a block of 256 shares one scale.

    Raises:
        ResourceError: bitsandbytes is not installed, or not usable here.
    """
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ResourceError(
            f"optimizer.name: adamw_8bit needs the package bitsandbytes ({error})",
            "Install it with: pip install 'loba-trainer[gpu]'; or choose adamw or adafactor.",
        ) from error
    return AdamW8bit(params, lr=lr, **options.as_keywords(), min_8bit_size=min_8bit_size)
