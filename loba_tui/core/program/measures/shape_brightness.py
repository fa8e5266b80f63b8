"""Brightness of the shape's colour (its largest channel, 0 to 1) in an image of the drawn world."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from loba_tui.models.shapes_world import read

UNIT = "0 to 1"
LIMITS = (0.0, 1.0)


def get_measure() -> Callable[[np.ndarray], float | None]:
    """Return a function from an image (H, W, 3) to the brightness; None where there is no shape."""
    return lambda image: read(image).brightness
