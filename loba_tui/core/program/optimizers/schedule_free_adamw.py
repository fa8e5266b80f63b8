"""Schedule-Free AdamW: averaging in place of a learning-rate schedule.

Defazio et al. 2024, The Road Less Scheduled, https://arxiv.org/abs/2405.15682

It trains at a point between its iterate and the average of all iterates, and the average is the
result: strips, reports and exports are made from it. No learning-rate schedule is needed.

For a slider: `optimizer: {name: schedule_free_adamw, lr: 1.0e-3}`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from schedulefree import AdamWScheduleFree

from loba_tui.core.option_types import UnitFloat


def get_optimizer(
    params: Iterable[Any],
    lr: float,
    *,
    beta1: UnitFloat = 0.9,
    beta2: UnitFloat = 0.999,
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.01,
    warmup_steps: NonNegativeInt = 0,
    r: NonNegativeFloat = 0.0,
    weight_lr_power: NonNegativeFloat = 2.0,
) -> torch.optim.Optimizer:
    """Return schedulefree's AdamWScheduleFree over `params` (tensors or parameter groups).

    Args:
        params: What is trained.
        lr: Learning rate, one to ten times AdamW's.
        beta1: Where between the iterate and the average gradients are taken.
        beta2: Decay of the second moment.
        eps: Added to the denominator.
        weight_decay: Decoupled from the gradient.
        warmup_steps: Steps over which the learning rate rises to `lr`.
        r: Weigh iterates by step ** r in the average; above 0 prefers late ones.
        weight_lr_power: During warm-up, weigh them by the learning rate to this power.
    """
    optimizer = AdamWScheduleFree(
        params,
        lr=lr,
        betas=(beta1, beta2),
        eps=eps,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        r=r,
        weight_lr_power=weight_lr_power,
    )
    optimizer.train()
    return optimizer
