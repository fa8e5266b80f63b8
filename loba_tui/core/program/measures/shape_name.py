"""Name of the shape (circle, square, …) in an image of the drawn world: a label to preserve."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from loba_tui.models.shapes_world import read


def get_measure() -> Callable[[np.ndarray], str | None]:
    """Return a function from an image (H, W, 3) to the label; None where it cannot be told."""
    return lambda image: read(image).shape
