"""OFT: a layer's inputs are rotated in blocks, W' = W·diag(R₁ … Rₖ), before they are weighed.

Each R is the Cayley transform of a skew matrix, so that angles between what the layer tells apart
stay (Qiu et al. 2023, https://arxiv.org/abs/2306.07280). A scale s goes to W + s·(W' − W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peft import OFTConfig

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.options import LinearAdapterOptions

INIT_FROM = False
TEXT_ENCODERS = False
LINEAR = False


@dataclass(frozen=True, kw_only=True)
class OftOptions(LinearAdapterOptions):
    """Options of the rotations.

    Attributes:
        rank: Side of the rotated blocks; it has to divide the inputs of every layer.
        alpha: A rotation has none; it stays at 1.
    """


def get_adapter(targets: Mapping[str, Sequence[str]], *, options: OftOptions) -> OFTConfig:
    """Return a PEFT configuration for the linear layers of the named groups.

    Raises:
        RecipeError: An alpha is asked for.
    """
    if options.alpha != 1.0:
        raise RecipeError("adapter.alpha: a rotation has no alpha", "Leave it out, or set it to 1.")
    return OFTConfig(
        r=0,
        oft_block_size=options.rank,
        target_modules=options.modules(targets),
        # The series that PEFT prefers is not a rotation once angles grow.
        use_cayley_neumann=False,
    )
