"""RAdam: Adam whose early steps are rectified, so it needs no warm-up.

Liu et al. 2019, On the Variance of the Adaptive Learning Rate and Beyond,
https://arxiv.org/abs/1908.03265

For a slider: `optimizer: {name: radam, lr: 1.0e-3}`
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
    beta2: UnitFloat = 0.99,
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.01,
    decoupled_weight_decay: bool = True,
) -> torch.optim.Optimizer:
    """Return torch's RAdam over `params` (tensors or parameter groups).

    Args:
        params: What is trained.
        lr: Learning rate.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment. Steps reach their full length after about 1/(1 − beta2)
            of them, so 0.99 suits short runs.
        eps: Added to the denominator.
        weight_decay: Strength of the decay.
        decoupled_weight_decay: As in AdamW; false adds the decay to the gradient.
    """
    return torch.optim.RAdam(
        params,
        lr=lr,
        betas=(beta1, beta2),
        eps=eps,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
    )
