"""Mean saturation of any image: distance between largest and smallest channel, 0 (gray) to 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

UNIT = "0 to 1"
LIMITS = (0.0, 1.0)


def get_measure() -> Callable[[np.ndarray], float]:
    """Return a function from an image (H, W, 3) to its mean chroma (of HSV, without dividing)."""

    def mean_saturation(image: np.ndarray) -> float:
        return float((image.max(axis=-1) - image.min(axis=-1)).mean())

    return mean_saturation
