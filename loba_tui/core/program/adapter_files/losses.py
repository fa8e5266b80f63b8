"""Measured loss of an approximated adapter, by layer and as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Loss:
    """Squared length of what an approximation lacks, and of the whole change of a layer."""

    layer: str
    lost: float
    whole: float

    @property
    def share(self) -> float:
        """Length of what is missing over that of the whole."""
        return math.sqrt(self.lost / self.whole) if self.whole > 0 else 0.0


@dataclass(frozen=True)
class Losses:
    """Loss of all layers of an adapter together.

    Attributes:
        share: Length of what is missing over that of the whole change.
        worst: The layer that lost the largest share of its own change; None without layers.
    """

    share: float
    worst: Loss | None

    @classmethod
    def of(cls, losses: Iterable[Loss]) -> Losses:
        """Sum layers up."""
        each = list(losses)
        total = Loss("", sum(one.lost for one in each), sum(one.whole for one in each))
        return cls(total.share, max(each, key=lambda one: one.share, default=None))
