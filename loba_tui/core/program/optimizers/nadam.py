"""NAdam: Adam with Nesterov momentum (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ).

For a slider: `optimizer: {name: nadam, lr: 5.0e-4}`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import NonNegativeFloat

from loba_tui.core.program.training.adam_options import AdamOptions


def get_optimizer(
    params: Iterable[Any],
    lr: float,
    *,
    options: AdamOptions,
    momentum_decay: NonNegativeFloat = 4e-3,
    decoupled_weight_decay: bool = True,
) -> torch.optim.Optimizer:
    """Return torch's NAdam over `params` (tensors or parameter groups).

    Args:
        decoupled_weight_decay: False adds the weight decay to the gradient instead.
    """
    return torch.optim.NAdam(
        params,
        lr=lr,
        **options.as_keywords(),
        momentum_decay=momentum_decay,
        decoupled_weight_decay=decoupled_weight_decay,
    )
