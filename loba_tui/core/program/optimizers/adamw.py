"""AdamW: decoupled weight decay (Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101).

For a slider: `optimizer: {name: adamw, lr: 5.0e-4}`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from loba_tui.core.program.training.adam_options import AdamOptions

FAST_OPTIONS = {"fused": True}


@dataclass(frozen=True, kw_only=True)
class AdamWOptions(AdamOptions):
    """Options of AdamW.

    Attributes:
        fused: One kernel for all weights, which has other last bits; `train.exactness: fast` has
            it.
    """

    fused: bool = False

    def as_keywords(self) -> dict[str, Any]:
        """Return them as torch's constructor takes them."""
        return {**super().as_keywords(), **({"fused": True} if self.fused else {})}


def get_optimizer(
    params: Iterable[Any], lr: float, *, options: AdamWOptions
) -> torch.optim.Optimizer:
    """Return torch's AdamW over `params` (tensors or parameter groups)."""
    return torch.optim.AdamW(params, lr=lr, **options.as_keywords())
