"""AdamW: decoupled weight decay (Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101).

For a slider: `optimizer: {name: adamw, lr: 5.0e-4}`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat

from loba_tui.core.option_types import UnitFloat


def get_optimizer(
    params: Iterable[Any],
    lr: float,
    *,
    beta1: UnitFloat = 0.9,
    beta2: UnitFloat = 0.999,
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.01,
) -> torch.optim.Optimizer:
    """Return torch's AdamW over `params` (tensors or parameter groups)."""
    return torch.optim.AdamW(
        params, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay
    )
