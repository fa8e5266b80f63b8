"""AdamW: decoupled weight decay (Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101).

For a slider: `optimizer: {name: adamw, lr: 5.0e-4}`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from loba_tui.core.program.training.adam_options import AdamOptions


def get_optimizer(
    params: Iterable[Any], lr: float, *, options: AdamOptions
) -> torch.optim.Optimizer:
    """Return torch's AdamW over `params` (tensors or parameter groups)."""
    return torch.optim.AdamW(params, lr=lr, **options.as_keywords())
