"""Train cross-attention alone, where the prompt comes in; every other layer stays frozen.

The choice of ESD-x (Gandikota et al. 2023, https://arxiv.org/abs/2303.07345).
"""

from __future__ import annotations

from typing import Any


def get_scheduler(optimizer: Any) -> list[float]:
    """Return one factor per parameter group: 1 inside "attn2" modules, 0 elsewhere.

    Groups carry the module's name as `group["name"]`.
    """
    return [1.0 if ".attn2." in f".{group['name']}." else 0.0 for group in optimizer.param_groups]
