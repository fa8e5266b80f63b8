"""SGD with momentum (Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html).

Nothing adapts to the size of gradients, which is small here: the learning rate is large, and what
fits one recipe need not fit the next.

For a slider: `optimizer: {name: sgd, lr: 0.3}`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import NonNegativeFloat

from loba_tui.core.option_types import UnitFloat


def get_optimizer(
    params: Iterable[Any],
    lr: float,
    *,
    momentum: UnitFloat = 0.9,
    weight_decay: NonNegativeFloat = 0.0,
    nesterov: bool = True,
) -> torch.optim.Optimizer:
    """Return torch's SGD over `params` (tensors or parameter groups)."""
    return torch.optim.SGD(
        params,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=nesterov and momentum > 0,
    )
