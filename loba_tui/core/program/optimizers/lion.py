"""Lion: the sign of an interpolated momentum (Chen et al. 2023, https://arxiv.org/abs/2302.06675).

Half of Adam's memory. Every weight moves by the full learning rate, so it takes less than Adam's.

For a slider: `optimizer: {name: lion, lr: 3.0e-4}`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import NonNegativeFloat
from pytorch_optimizer import Lion

from loba_tui.core.option_types import UnitFloat


def get_optimizer(
    params: Iterable[Any],
    lr: float,
    *,
    beta1: UnitFloat = 0.9,
    beta2: UnitFloat = 0.99,
    weight_decay: NonNegativeFloat = 0.01,
) -> torch.optim.Optimizer:
    """Return pytorch_optimizer's Lion over `params` (tensors or parameter groups)."""
    return Lion(params, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)
