"""Adafactor: second moments by row and column.

Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235

Least memory of all adaptive optimizers here. Its step is relative to each tensor's own size, at
least `eps2`, so the learning rate is larger than Adam's.

For a slider: `optimizer: {name: adafactor, lr: 5.0e-3}`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat


def get_optimizer(
    params: Iterable[Any],
    lr: float,
    *,
    beta2_decay: float = -0.8,
    eps2: PositiveFloat = 0.05,
    clip_threshold: PositiveFloat = 1.0,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Optimizer:
    """Return torch's Adafactor over `params` (tensors or parameter groups).

    Args:
        params: What is trained.
        lr: The relative step; torch takes the smaller of it and 1/√step.
        beta2_decay: Exponent of the second moment's decay, 1 − step ** beta2_decay.
        eps2: Least size that a tensor is taken to have. LoRA's up-matrices begin at zero, and the
            paper's 1e-3 would hardly get them going.
        clip_threshold: Largest root mean square of an update.
        weight_decay: Decoupled from the gradient.
    """
    return torch.optim.Adafactor(
        params,
        lr=lr,
        beta2_decay=beta2_decay,
        eps=(None, eps2),
        d=clip_threshold,
        weight_decay=weight_decay,
    )
