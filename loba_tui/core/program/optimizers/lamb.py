"""LAMB: Adam with a trust ratio for each tensor (You et al. 2019, https://arxiv.org/abs/1904.00962).

Made for very large batches. A step is relative to a tensor's own norm, so the learning rate is
larger than Adam's.

For a slider: `optimizer: {name: lamb, lr: 2.0e-3}`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from pytorch_optimizer import Lamb

from loba_tui.core.program.training.adam_options import AdamOptions


@dataclass(frozen=True, kw_only=True)
class LambOptions(AdamOptions):
    """Adam's options with LAMB's defaults."""

    eps: PositiveFloat = 1e-6
    weight_decay: NonNegativeFloat = 0.0


def get_optimizer(
    params: Iterable[Any], lr: float, *, options: LambOptions, bound_gradients: bool = False
) -> torch.optim.Optimizer:
    """Return pytorch_optimizer's LAMB over `params` (tensors or parameter groups).

    Args:
        params: What is trained.
        lr: Learning rate, relative to each tensor's norm.
        options: Of Adam.
        bound_gradients: Divide by the norm of all gradients where it exceeds 1, as LAMB's first
            version did; train.max_grad_norm does the same already.
    """
    return Lamb(params, lr=lr, **options.as_keywords(), pre_norm=bound_gradients)
