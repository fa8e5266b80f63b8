"""LoHa: the Hadamard product of two low-rank matrices, ΔW = α/r · (B₁A₁) ∘ (B₂A₂).

Its rank reaches r² at twice the parameters of LoRA (FedPara, Hyeon-Woo et al. 2021,
https://arxiv.org/abs/2108.06098; LyCORIS, Yeh et al. 2023, https://arxiv.org/abs/2309.14859).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peft import LoHaConfig

from loba_tui.core.program.adapter_layers.options import AdapterOptions

INIT_FROM = False
TEXT_ENCODERS = False


@dataclass(frozen=True, kw_only=True)
class LoHaOptions(AdapterOptions):
    """Options of the product.

    Attributes:
        rank: Rank r of both products.
    """


def get_adapter(targets: Mapping[str, Sequence[str]], *, options: LoHaOptions) -> LoHaConfig:
    """Return a PEFT configuration for the layers of the named groups."""
    return LoHaConfig(r=options.rank, alpha=options.alpha, target_modules=options.modules(targets))
