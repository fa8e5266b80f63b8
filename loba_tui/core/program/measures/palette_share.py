"""Share of any image's pixels whose colour is one of a palette's, such as the inks of a style."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import NonNegativeFloat

UNIT = "share of pixels"
LIMITS = (0.0, 1.0)


def get_measure(
    *,
    colors: Sequence[Sequence[float]] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    tolerance: NonNegativeFloat = 0.2,
) -> Callable[[np.ndarray], float]:
    """Return a function from an image (H, W, 3) to the share of its pixels in the palette.

    Args:
        colors: RGB, 0 to 1; black and white unless told.
        tolerance: Largest Euclidean distance in RGB at which a pixel counts as of a colour.

    Raises:
        ValueError: If there is no colour, or one is not three numbers.
    """
    if not colors or any(len(color) != 3 for color in colors):
        raise ValueError(f"palette_share: colors are three numbers each, not {list(colors)}")
    palette = np.asarray(colors, dtype=float)

    def palette_share(image: np.ndarray) -> float:
        distance = np.linalg.norm(image[:, :, None] - palette, axis=-1).min(axis=-1)
        return float((distance <= tolerance).mean())

    return palette_share
