"""Mean greyness of any image: 1 without any colour, 0 with pure colours alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

UNIT = "0 to 1"
LIMITS = (0.0, 1.0)


def get_measure() -> Callable[[np.ndarray], float]:
    """Return a function from an image (H, W, 3) to 1 minus its mean chroma."""

    def greyness(image: np.ndarray) -> float:
        return float(1 - (image.max(axis=-1) - image.min(axis=-1)).mean())

    return greyness
