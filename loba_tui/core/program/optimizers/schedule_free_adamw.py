"""Schedule-Free AdamW: averaging in place of a learning-rate schedule.

Defazio et al. 2024, The Road Less Scheduled, https://arxiv.org/abs/2405.15682

It trains at a point between its iterate and the average of all iterates, and the average is the
result: strips, reports and exports are made from it. No learning-rate schedule is needed.

For a slider: `optimizer: {name: schedule_free_adamw, lr: 1.0e-3}`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt
from schedulefree import AdamWScheduleFree

from loba_tui.core.program.training.adam_options import AdamOptions


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeOptions(AdamOptions):
    """AdamW's options; the first moment is an average of iterates.

    Attributes:
        beta1: Where between the iterate and the average gradients are taken.
    """


def get_optimizer(
    params: Iterable[Any],
    lr: float,
    *,
    options: ScheduleFreeOptions,
    warmup_steps: NonNegativeInt = 0,
    r: NonNegativeFloat = 0.0,
    weight_lr_power: NonNegativeFloat = 2.0,
) -> torch.optim.Optimizer:
    """Return schedulefree's AdamWScheduleFree over `params` (tensors or parameter groups).

    Args:
        params: What is trained.
        lr: Learning rate, one to ten times AdamW's.
        options: Of AdamW.
        warmup_steps: Steps over which the learning rate rises to `lr`.
        r: Weigh iterates by step ** r in the average; above 0 prefers late ones.
        weight_lr_power: During warm-up, weigh them by the learning rate to this power.
    """
    optimizer = AdamWScheduleFree(
        params,
        lr=lr,
        **options.as_keywords(),
        warmup_steps=warmup_steps,
        r=r,
        weight_lr_power=weight_lr_power,
    )
    optimizer.train()
    return optimizer
