"""CAME: Adafactor with confidence-guided steps (Luo et al. 2023, https://arxiv.org/abs/2307.02047).

Row and column moments as Adafactor has them, plus a full momentum: half of Adam's memory on large
matrices, three quarters on LoRA's narrow ones. It takes a fifth of Adam's learning rate.

For a slider: `optimizer: {name: came, lr: 1.0e-4}`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from pytorch_optimizer import CAME

from loba_tui.core.option_types import UnitFloat


def get_optimizer(
    params: Iterable[Any],
    lr: float,
    *,
    beta1: UnitFloat = 0.9,
    beta2: UnitFloat = 0.999,
    beta3: UnitFloat = 0.9999,
    weight_decay: NonNegativeFloat = 0.01,
    clip_threshold: PositiveFloat = 1.0,
) -> torch.optim.Optimizer:
    """Return pytorch_optimizer's CAME over `params` (tensors or parameter groups).

    Args:
        params: What is trained.
        lr: Learning rate.
        beta1: Decay of the momentum.
        beta2: Decay of the squared gradients.
        beta3: Decay of the squared residuals, which measure how much the momentum can be trusted.
        weight_decay: Decoupled from the gradient.
        clip_threshold: Largest root mean square of an update.
    """
    return CAME(
        params,
        lr=lr,
        betas=(beta1, beta2, beta3),
        weight_decay=weight_decay,
        clip_threshold=clip_threshold,
    )
