"""Where any image's mean colour lies on the line from one RGB colour (0) to another (1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

UNIT = "0 to 1 between two colours"


def get_measure(
    *, low: Sequence[float] = (0.1, 0.2, 1.0), high: Sequence[float] = (1.0, 0.2, 0.1)
) -> Callable[[np.ndarray], float]:
    """Return a function from an image (H, W, 3) to its place between two colours.

    Args:
        low: RGB, 0 to 1, that counts as 0; blue unless told.
        high: RGB, 0 to 1, that counts as 1; red unless told.

    Raises:
        ValueError: If the colours are equal, or are not three numbers each.
    """
    start, end = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    if start.shape != (3,) or end.shape != (3,):
        raise ValueError(f"color_axis: low and high are three numbers each, not {low} and {high}")
    axis = end - start
    length = float(axis @ axis)
    if length == 0:
        raise ValueError(f"color_axis: low and high are the same colour, {tuple(low)}")

    def color_axis(image: np.ndarray) -> float:
        return float((image.mean(axis=(0, 1)) - start) @ axis / length)

    return color_axis
