"""Learning-rate factors of one's own, by patterns over module names.

scheduler:
  layer:
    name: custom
    factors: {"up_blocks.*": 1.0, "*.attn2.*": 0.5}
    otherwise: 0.1
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from pydantic import NonNegativeFloat

from loba_tui.core.errors import RecipeError


def get_scheduler(
    optimizer: Any, *, factors: dict[str, NonNegativeFloat], otherwise: NonNegativeFloat = 0.0
) -> list[float]:
    """Return one factor per parameter group: that of the first pattern that fits its name.

    Args:
        optimizer: Its groups carry the module's name as `group["name"]`.
        factors: Factor by pattern, in the order in which they are tried; `*` stands for anything,
            dots included. 0 leaves a layer out.
        otherwise: Factor of layers that no pattern fits.

    Raises:
        RecipeError: A pattern fits no layer that the adapter has.
    """
    names = [group["name"] for group in optimizer.param_groups]
    for pattern in factors:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(
                f"scheduler.layer.factors: {pattern!r} fits none of the adapter's layers",
                f"One of them is {names[0]}." if names else "The adapter has no layers.",
            )
    return [
        next(
            (factor for pattern, factor in factors.items() if fnmatchcase(name, pattern)), otherwise
        )
        for name in names
    ]
