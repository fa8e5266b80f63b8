"""Random anchors: text embeddings of nothing in particular, where an erased model must not change.

Semi-Permeable Membrane, Lyu et al. 2023, https://arxiv.org/abs/2312.16145. An anchor is Gaussian
noise as long as the erased prompt's embedding; the nearer it happens to lie to that, the likelier
it is drawn anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.option_types import UnitFloat
from loba_tui.core.program import randomness
from loba_tui.core.program.method import MethodParts
from loba_tui.core.program.objectives.preserve import spread_rows
from loba_tui.core.program.trajectories.base import Draw

_LENGTHS = (0.8, 1.2)
_MOST_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class AnchorOptions:
    """Options of methods that can hold anchors.

    Attributes:
        anchor_weight: Weight of SPM's anchors, random text embeddings that must not change
            (https://arxiv.org/abs/2312.16145, which has 1000); 0 has none.
        anchor_share: Share of a batch's rows that also train an anchor.
    """

    anchor_weight: NonNegativeFloat = 0.0
    anchor_share: UnitFloat = 0.25


class SpmAnchors:
    """Holds an anchor in each picked row; see `objectives.preserve.Held`."""

    name = "anchor"

    def __init__(self, parts: MethodParts, options: AnchorOptions) -> None:
        self._parts = parts
        self.weight, self.share = options.anchor_weight, options.anchor_share

    def pick(self, draw: Draw, index: int) -> tuple[list[int], list[PromptEmbeds]]:
        """Return local rows, and an anchor for each."""
        parts, rows, anchors = self._parts, [], []
        for local, key in spread_rows(draw, index, self.share):
            target = parts.embeds[parts.concepts[draw.concepts[local]].target]
            rows.append(local)
            anchors.append(random_anchor(target, parts.seed, *key))
        return rows, anchors


def random_anchor(target: PromptEmbeds, seed: int, *key: int | str) -> PromptEmbeds:
    """Return one row like `target`, the same for the same seed and key.

    Args:
        target: The embeddings of an erased prompt, one row.
        seed: Of the run.
        key: Of this anchor.
    """
    drawn = torch.rand(_MOST_TRIES + 1, generator=randomness.generator(seed, "anchor", *key))
    flat = target.embeds.flatten().float().cpu()
    for attempt in range(_MOST_TRIES):
        noise = randomness.normal(flat.shape, seed, "anchor", attempt, *key)
        likeness = torch.nn.functional.cosine_similarity(flat, noise, dim=0)
        if float(drawn[attempt]) < 1 - float(likeness):
            break
    low, high = _LENGTHS
    length = low + (high - low) * float(drawn[-1])
    embeds = _as_long_as(target.embeds, noise.view_as(target.embeds), length)
    pooled = target.pooled
    if pooled is not None:
        pooled_noise = randomness.normal(pooled.shape, seed, "anchor pooled", *key)
        pooled = _as_long_as(pooled, pooled_noise, length)
    return replace(target, embeds=embeds, pooled=pooled, texts=(None,))


def _as_long_as(like: Tensor, noise: Tensor, factor: float) -> Tensor:
    """Return noise with `factor` times the length of `like`, on its device and in its dtype."""
    scaled = noise * (factor * float(like.float().norm()) / float(noise.norm()))
    return scaled.to(like)
