"""DoRA: LoRA on a weight's direction, and a magnitude m for each output of a layer.

W' = m · (W + α/r · B A) / ‖W + α/r · B A‖, rows normalised (Liu et al. 2024,
https://arxiv.org/abs/2402.09353). A scale s goes to W + s·(W' − W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from peft import LoraConfig
from pydantic import PositiveFloat, PositiveInt


def get_adapter(
    targets: Mapping[str, Sequence[str]],
    *,
    rank: PositiveInt = 4,
    alpha: PositiveFloat = 1.0,
    layers: Sequence[
        Literal["cross_attention", "self_attention", "feed_forward", "projection", "convolution"]
    ] = ("cross_attention", "self_attention"),
) -> LoraConfig:
    """Return a PEFT configuration for the layers of the named groups.

    Args:
        targets: Module names by group, as the model container lists them.
        rank: Rank r of the update B A.
        alpha: The update is scaled by alpha / rank.
        layers: Which groups get an update.
    """
    modules = [name for group in layers for name in targets.get(group, ())]
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=modules,
        init_lora_weights="gaussian",
        use_dora=True,
    )
