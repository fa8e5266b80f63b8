"""Random anchors: text embeddings of nothing in particular, where an erased model must not change.

Semi-Permeable Membrane, Lyu et al. 2023, https://arxiv.org/abs/2312.16145. An anchor is Gaussian
noise as long as the erased prompt's embedding; the nearer it happens to lie to that, the likelier
it is drawn anew.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.program import randomness

_LENGTHS = (0.8, 1.2)
_MOST_TRIES = 20


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
    return PromptEmbeds(embeds, pooled)


def _as_long_as(like: Tensor, noise: Tensor, factor: float) -> Tensor:
    """Return noise with `factor` times the length of `like`, on its device and in its dtype."""
    scaled = noise * (factor * float(like.float().norm()) / float(noise.norm()))
    return scaled.to(like)
