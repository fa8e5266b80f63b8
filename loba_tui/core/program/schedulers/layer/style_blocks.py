"""Train the blocks of SD-XL that carry style, or those that carry content.

B-LoRA (Frenkel et al. 2024, Implicit Style-Content Separation, https://arxiv.org/abs/2403.14572):
of SD-XL's attention blocks, up_blocks.0.attentions.1 decides style and colour, and
up_blocks.0.attentions.0 decides content.
"""

from __future__ import annotations

from typing import Any, Literal

_BLOCKS = {
    "style": ("up_blocks.0.attentions.1.",),
    "content": ("up_blocks.0.attentions.0.",),
    "both": ("up_blocks.0.attentions.0.", "up_blocks.0.attentions.1."),
}


def get_scheduler(
    optimizer: Any, *, train: Literal["style", "content", "both"] = "style"
) -> list[float]:
    """Return one factor per parameter group: 1 inside the wanted blocks, 0 elsewhere.

    Args:
        optimizer: Its groups carry the module's name as `group["name"]`.
        train: Which of the two blocks.
    """
    wanted = _BLOCKS[train]
    return [1.0 if group["name"].startswith(wanted) else 0.0 for group in optimizer.param_groups]
