"""Options that adapters share: how large an update is, and which layers get one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """Options of adapters of linear and convolutional layers.

    Attributes:
        rank: Rank r of the update B A.
        alpha: The update is scaled by alpha / rank.
        layers: Which groups get an update.
    """

    rank: PositiveInt = 4
    alpha: PositiveFloat = 1.0
    layers: Sequence[
        Literal[
            "cross_attention",
            "self_attention",
            "feed_forward",
            "projection",
            "modulation",
            "convolution",
        ]
    ] = ("cross_attention", "self_attention")

    def modules(self, targets: Mapping[str, Sequence[str]]) -> list[str]:
        """Return the modules of these layers, of all those of the model by group."""
        return [name for group in self.layers for name in targets.get(group, ())]


@dataclass(frozen=True, kw_only=True)
class LinearAdapterOptions(AdapterOptions):
    """Options of adapters of linear layers alone."""

    layers: Sequence[
        Literal["cross_attention", "self_attention", "feed_forward", "projection", "modulation"]
    ] = ("cross_attention", "self_attention")
