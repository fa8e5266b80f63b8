"""Mean luminance of any image, 0 (black) to 1 (white)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

UNIT = "0 to 1"
LIMITS = (0.0, 1.0)


def get_measure() -> Callable[[np.ndarray], float]:
    """Return a function from an image (H, W, 3) to its mean luminance (Rec. 709 weights)."""
    weights = np.array([0.2126, 0.7152, 0.0722])

    def mean_brightness(image: np.ndarray) -> float:
        return float((image @ weights).mean())

    return mean_brightness
