"""Train attention alone: every other layer's learning rate is zero, so it stays frozen."""

from __future__ import annotations

from typing import Any

# Of UNets, and of transformers over words and image.
_ATTENTION = (".attn1.", ".attn2.", ".attn.", ".attention.")


def get_scheduler(optimizer: Any) -> list[float]:
    """Return one factor per parameter group: 1 inside attention blocks, 0 elsewhere.

    Groups carry the module's name as `group["name"]`, such as
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k" or "layers.3.attention.to_q".
    """
    return [
        1.0 if any(mark in f".{group['name']}." for mark in _ATTENTION) else 0.0
        for group in optimizer.param_groups
    ]
