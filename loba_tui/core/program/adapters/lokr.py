"""LoKr: a Kronecker product, ΔW = α/r · W₁ ⊗ (B A), for very small files.

W₁ is small and full (KronA, Edalati et al. 2022, https://arxiv.org/abs/2212.10650; LyCORIS, Yeh et
al. 2023, https://arxiv.org/abs/2309.14859).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peft import LoKrConfig
from pydantic import PositiveInt

from loba_tui.core.program.adapter_layers.options import AdapterOptions

INIT_FROM = False
TEXT_ENCODERS = False


@dataclass(frozen=True, kw_only=True)
class LoKrOptions(AdapterOptions):
    """Options of the product.

    Attributes:
        rank: Rank r of B A; a block of at most twice that size stays a full matrix.
        factor: Side of W₁; null takes the divisor of a layer's size next to its square root.
        decompose_both: Make W₁ a product of rank r too, where that is smaller.
    """

    factor: PositiveInt | None = None
    decompose_both: bool = False


def get_adapter(targets: Mapping[str, Sequence[str]], *, options: LoKrOptions) -> LoKrConfig:
    """Return a PEFT configuration for the layers of the named groups."""
    return LoKrConfig(
        r=options.rank,
        alpha=options.alpha,
        decompose_factor=-1 if options.factor is None else options.factor,
        decompose_both=options.decompose_both,
        target_modules=options.modules(targets),
    )
