"""Options that Adam and its kin share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat

from loba_tui.core.option_types import UnitFloat


@dataclass(frozen=True, kw_only=True)
class AdamOptions:
    """Options of optimizers with two moments.

    Attributes:
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the denominator.
        weight_decay: Decoupled from the gradient.
    """

    beta1: UnitFloat = 0.9
    beta2: UnitFloat = 0.999
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.01

    def as_keywords(self) -> dict[str, Any]:
        """Return them as constructors of optimizers take them."""
        betas = (self.beta1, self.beta2)
        return {"betas": betas, "eps": self.eps, "weight_decay": self.weight_decay}
