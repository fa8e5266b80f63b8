"""LoCon: LoRA on convolutions as well (Yeh et al. 2023, LyCORIS, https://arxiv.org/abs/2309.14859)."""

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
    conv_rank: PositiveInt | None = None,
    conv_alpha: PositiveFloat | None = None,
    layers: Sequence[
        Literal[
            "cross_attention",
            "self_attention",
            "feed_forward",
            "projection",
            "modulation",
            "convolution",
        ]
    ] = ("self_attention", "feed_forward", "projection", "convolution"),
) -> LoraConfig:
    """Return a PEFT configuration for linear and convolutional layers of the named groups.

    The default leaves cross-attention out, as the Concept Sliders reference does ("c3lier").

    Args:
        targets: Module names by group, as the model container lists them.
        rank: Rank r of the update B A.
        alpha: The update is scaled by alpha / rank.
        conv_rank: Rank on convolutions; None takes `rank`.
        conv_alpha: Alpha on convolutions; None takes `alpha`.
        layers: Which groups get an update.
    """
    modules = [name for group in layers for name in targets.get(group, ())]
    convolutions = targets.get("convolution", ()) if "convolution" in layers else ()
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=modules,
        rank_pattern={name: conv_rank for name in convolutions if conv_rank is not None},
        alpha_pattern={name: conv_alpha for name in convolutions if conv_alpha is not None},
        init_lora_weights="gaussian",
    )
