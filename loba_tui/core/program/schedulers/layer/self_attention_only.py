"""Train self-attention alone, which arranges the picture; every other layer stays frozen."""

from __future__ import annotations

from typing import Any


def get_scheduler(optimizer: Any) -> list[float]:
    """Return one factor per parameter group: 1 inside "attn1" modules, 0 elsewhere.

    Groups carry the module's name as `group["name"]`.
    """
    return [1.0 if ".attn1." in f".{group['name']}." else 0.0 for group in optimizer.param_groups]
