"""LoKr: a Kronecker product, ΔW = α/r · W₁ ⊗ (B A), for very small files.

W₁ is small and full (KronA, Edalati et al. 2022, https://arxiv.org/abs/2212.10650; LyCORIS, Yeh et
al. 2023, https://arxiv.org/abs/2309.14859).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from peft import LoKrConfig
from pydantic import PositiveFloat, PositiveInt


def get_adapter(
    targets: Mapping[str, Sequence[str]],
    *,
    rank: PositiveInt = 4,
    alpha: PositiveFloat = 1.0,
    factor: PositiveInt | None = None,
    decompose_both: bool = False,
    layers: Sequence[
        Literal["cross_attention", "self_attention", "feed_forward", "projection", "convolution"]
    ] = ("cross_attention", "self_attention"),
) -> LoKrConfig:
    """Return a PEFT configuration for the layers of the named groups.

    Args:
        targets: Module names by group, as the model container lists them.
        rank: Rank r of B A; a block of at most twice that size stays a full matrix.
        alpha: The update is scaled by alpha / rank.
        factor: Side of W₁; null takes the divisor of a layer's size next to its square root.
        decompose_both: Make W₁ a product of rank r too, where that is smaller.
        layers: Which groups get an update.
    """
    modules = [name for group in layers for name in targets.get(group, ())]
    return LoKrConfig(
        r=rank,
        alpha=alpha,
        decompose_factor=-1 if factor is None else factor,
        decompose_both=decompose_both,
        target_modules=modules,
    )
