"""LoHa: the Hadamard product of two low-rank matrices, ΔW = α/r · (B₁A₁) ∘ (B₂A₂).

Its rank reaches r² at twice the parameters of LoRA (FedPara, Hyeon-Woo et al. 2021,
https://arxiv.org/abs/2108.06098; LyCORIS, Yeh et al. 2023, https://arxiv.org/abs/2309.14859).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from peft import LoHaConfig
from pydantic import PositiveFloat, PositiveInt


def get_adapter(
    targets: Mapping[str, Sequence[str]],
    *,
    rank: PositiveInt = 4,
    alpha: PositiveFloat = 1.0,
    layers: Sequence[
        Literal["cross_attention", "self_attention", "feed_forward", "projection", "convolution"]
    ] = ("cross_attention", "self_attention"),
) -> LoHaConfig:
    """Return a PEFT configuration for the layers of the named groups.

    Args:
        targets: Module names by group, as the model container lists them.
        rank: Rank r of both products.
        alpha: The update is scaled by alpha / rank.
        layers: Which groups get an update.
    """
    modules = [name for group in layers for name in targets.get(group, ())]
    return LoHaConfig(r=rank, alpha=alpha, target_modules=modules)
