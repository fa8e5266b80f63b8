"""Train attention alone: every other layer's learning rate is zero, so it stays frozen."""

from __future__ import annotations

from typing import Any


def get_scheduler(optimizer: Any) -> list[float]:
    """Return one factor per parameter group: 1 inside attention blocks, 0 elsewhere.

    Groups carry the module's name as `group["name"]`, such as
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k".
    """
    return [
        1.0 if ".attn1." in group["name"] or ".attn2." in group["name"] else 0.0
        for group in optimizer.param_groups
    ]
