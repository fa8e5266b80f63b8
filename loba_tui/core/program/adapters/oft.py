"""OFT: a layer's inputs are rotated in blocks, W' = W·diag(R₁ … Rₖ), before they are weighed.

Each R is the Cayley transform of a skew matrix, so that angles between what the layer tells apart
stay (Qiu et al. 2023, https://arxiv.org/abs/2306.07280). A scale s goes to W + s·(W' − W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from peft import OFTConfig
from pydantic import PositiveFloat, PositiveInt

from loba_tui.core.errors import RecipeError


def get_adapter(
    targets: Mapping[str, Sequence[str]],
    *,
    rank: PositiveInt = 4,
    alpha: PositiveFloat = 1.0,
    layers: Sequence[Literal["cross_attention", "self_attention", "feed_forward", "projection"]] = (
        "cross_attention",
        "self_attention",
    ),
) -> OFTConfig:
    """Return a PEFT configuration for the linear layers of the named groups.

    Args:
        targets: Module names by group, as the model container lists them.
        rank: Side of the rotated blocks; it has to divide the inputs of every layer.
        alpha: A rotation has none; it stays at 1.
        layers: Which groups get an update.

    Raises:
        RecipeError: An alpha is asked for.
    """
    if alpha != 1.0:
        raise RecipeError("adapter.alpha: a rotation has no alpha", "Leave it out, or set it to 1.")
    modules = [name for group in layers for name in targets.get(group, ())]
    return OFTConfig(
        r=0,
        oft_block_size=rank,
        target_modules=modules,
        # The series that PEFT prefers is not a rotation once angles grow.
        use_cayley_neumann=False,
    )
