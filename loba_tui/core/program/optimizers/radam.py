"""RAdam: Adam whose early steps are rectified, so it needs no warm-up.

Liu et al. 2019, On the Variance of the Adaptive Learning Rate and Beyond,
https://arxiv.org/abs/1908.03265

For a slider: `optimizer: {name: radam, lr: 1.0e-3}`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from loba_tui.core.option_types import UnitFloat
from loba_tui.core.program.training.adam_options import AdamOptions


@dataclass(frozen=True, kw_only=True)
class RAdamOptions(AdamOptions):
    """Adam's options with a second moment for short runs.

    Attributes:
        beta2: Decay of the second moment. Steps reach their full length after about 1/(1 − beta2)
            of them, so 0.99 suits short runs.
        weight_decay: Strength of the decay.
    """

    beta2: UnitFloat = 0.99


def get_optimizer(
    params: Iterable[Any], lr: float, *, options: RAdamOptions, decoupled_weight_decay: bool = True
) -> torch.optim.Optimizer:
    """Return torch's RAdam over `params` (tensors or parameter groups).

    Args:
        params: What is trained.
        lr: Learning rate.
        options: Of Adam.
        decoupled_weight_decay: As in AdamW; false adds the decay to the gradient.
    """
    return torch.optim.RAdam(
        params, lr=lr, **options.as_keywords(), decoupled_weight_decay=decoupled_weight_decay
    )
