"""Share of images of the drawn world that show a given colour, shape or background: 1 or 0 each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from loba_tui.models.shapes_world import BACKGROUNDS, COLORS, SHAPES, read

UNIT = "share of images"
LIMITS = (0.0, 1.0)

_KNOWN = {"color": tuple(COLORS), "shape": SHAPES, "background": tuple(BACKGROUNDS)}


def get_measure(
    *, value: str = "green", label: Literal["color", "shape", "background"] = "color"
) -> Callable[[np.ndarray], float | None]:
    """Return a function from an image (H, W, 3) to 1 or 0; None where nothing is found.

    Args:
        value: What is looked for, such as "green".
        label: What it is: a colour, a shape or a background.

    Raises:
        ValueError: The drawn world has no such value.
    """
    if value not in _KNOWN[label]:
        raise ValueError(f"label_is: {value} is no {label}; there is {', '.join(_KNOWN[label])}")

    def label_is(image: np.ndarray) -> float | None:
        found = getattr(read(image), label)
        return None if found is None else float(found == value)

    return label_is
