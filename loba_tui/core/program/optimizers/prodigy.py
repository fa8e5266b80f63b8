"""Prodigy: Adam that finds its own step size.

Mishchenko & Defazio 2023, https://arxiv.org/abs/2306.06101

The learning rate is a multiple of that step: leave it at 1. One step size is estimated for all
layers, so it cannot be combined with a layer scheduler of several factors.

For a slider: `optimizer: {name: prodigy, lr: 1.0, step_factor: 0.5}`
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import PositiveFloat
from pytorch_optimizer import Prodigy

from loba_tui.core.option_types import UnitFloat
from loba_tui.core.program.training.adam_options import AdamOptions

ONE_LEARNING_RATE = True


@dataclass(frozen=True, kw_only=True)
class ProdigyOptions(AdamOptions):
    """Adam's options; the second moment also decides how fast the estimate forgets.

    Attributes:
        beta2: Decay of the second moment, and by its root of the estimate.
    """

    beta2: UnitFloat = 0.99


def get_optimizer(
    params: Iterable[Any],
    lr: float,
    *,
    options: ProdigyOptions,
    first_step: PositiveFloat = 1e-5,
    step_factor: PositiveFloat = 1.0,
    growth_rate: PositiveFloat | None = None,
    bias_correction: bool = True,
    safeguard_warmup: bool = True,
) -> torch.optim.Optimizer:
    """Return pytorch_optimizer's Prodigy over `params` (tensors or parameter groups).

    Args:
        params: What is trained.
        lr: Multiple of the estimated step size.
        options: Of Adam.
        first_step: The step size d that the estimate starts from.
        step_factor: Multiplies the estimate; 0.5 is careful, 2 is bold. A slider's short run
            overshoots with 1.
        growth_rate: Most that the estimate may grow by in one step; null sets no limit.
        bias_correction: Adam's, for the first steps.
        safeguard_warmup: Keep a warm-up of the learning rate from inflating the estimate.
    """
    return Prodigy(
        params,
        lr=lr,
        **options.as_keywords(),
        d0=first_step,
        d_coef=step_factor,
        growth_rate=math.inf if growth_rate is None else growth_rate,
        bias_correction=bias_correction,
        safeguard_warmup=safeguard_warmup,
    )
