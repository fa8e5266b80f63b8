"""Learning rates that fall from block to block of the denoiser.

Layer-wise decay as in ELECTRA (Clark et al. 2020, https://arxiv.org/abs/2003.10555), by the blocks
of a U-Net or a transformer in the order in which data flows through them.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from loba_tui.core.option_types import UnitFloat

_STAGES = (
    "conv_in",
    "down_blocks",
    "mid_block",
    "up_blocks",
    "noise_refiner",
    "context_refiner",
    "layers",
    "transformer_blocks",
    "single_transformer_blocks",
    "conv_out",
)


def get_scheduler(
    optimizer: Any,
    *,
    decay: UnitFloat = 0.8,
    full_at: Literal["input", "middle", "output"] = "middle",
) -> list[float]:
    """Return one factor per parameter group: decay ** (blocks between it and `full_at`).

    Args:
        optimizer: Its groups carry the module's name as `group["name"]`.
        decay: Factor from one block to the next.
        full_at: Where the factor is 1. "middle" is a U-Net's mid block, or a transformer's central
            one.
    """
    blocks = [_block(group["name"]) for group in optimizer.param_groups]
    order = sorted(set(blocks))
    depth = {block: place for place, block in enumerate(order)}
    anchor = {"input": 0, "middle": _middle(order), "output": len(order) - 1}[full_at]
    return [decay ** abs(depth[block] - anchor) for block in blocks]


def _block(name: str) -> tuple[int, int]:
    """Return a module's stage and its block's number in it: they sort in the order of the data."""
    found = re.match(rf"({'|'.join(_STAGES)})(?:\.(\d+))?", name)
    # What is neither, such as an embedding, feeds the blocks.
    return (_STAGES.index(found[1]), int(found[2] or 0)) if found else (-1, 0)


def _middle(order: list[tuple[int, int]]) -> int:
    mid_block = (_STAGES.index("mid_block"), 0)
    is_unet = any(_STAGES[stage] in ("down_blocks", "up_blocks") for stage, _ in order)
    if is_unet:
        return min(sum(block < mid_block for block in order), len(order) - 1)
    return len(order) // 2
