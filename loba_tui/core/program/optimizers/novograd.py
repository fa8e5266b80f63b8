"""NovoGrad: one second moment a layer (Ginsburg et al. 2019, https://arxiv.org/abs/1905.11286).

Half of Adam's memory, and robust against the size of gradients.

For a slider: `optimizer: {name: novograd, lr: 5.0e-3}`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import NonNegativeFloat
from pytorch_optimizer import NovoGrad

from loba_tui.core.option_types import UnitFloat
from loba_tui.core.program.training.adam_options import AdamOptions


@dataclass(frozen=True, kw_only=True)
class NovoGradOptions(AdamOptions):
    """Adam's options with NovoGrad's defaults.

    Attributes:
        beta2: Decay of the layer's squared gradient norm.
        weight_decay: Added to the normalised gradient.
    """

    beta1: UnitFloat = 0.95
    beta2: UnitFloat = 0.98
    weight_decay: NonNegativeFloat = 0.0


def get_optimizer(
    params: Iterable[Any], lr: float, *, options: NovoGradOptions, grad_averaging: bool = True
) -> torch.optim.Optimizer:
    """Return pytorch_optimizer's NovoGrad over `params` (tensors or parameter groups).

    Args:
        params: What is trained.
        lr: Learning rate; a step has about this length in the norm of a whole layer.
        options: Decay of the moments and of the weights.
        grad_averaging: Weigh new gradients by 1 − beta1, so that `lr` does not depend on `beta1`.
    """
    return NovoGrad(params, lr=lr, **options.as_keywords(), grad_averaging=grad_averaging)
