"""Area of the shape in an image of the drawn world, in pixels of the image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from loba_tui.models.shapes_world import read

UNIT = "pixels"


def get_measure() -> Callable[[np.ndarray], float | None]:
    """Return a function from an image (H, W, 3) to the area; None where there is no shape."""
    # The reader says 0 for "no shape"; as a value that would be a small shape.
    return lambda image: read(image).area or None
