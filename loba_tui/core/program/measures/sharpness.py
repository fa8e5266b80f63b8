"""Share of fine detail in any image: standard deviation of the Laplacian over the contrast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

UNIT = "Laplacian over contrast"


def get_measure() -> Callable[[np.ndarray], float | None]:
    """Return a function from an image (H, W, 3) to its sharpness; None for a blank image."""

    def sharpness(image: np.ndarray) -> float | None:
        gray = image.mean(axis=-1, dtype=np.float64)
        contrast = float(gray.std())
        if contrast < 1e-3:
            return None
        around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
        return float((4 * gray[1:-1, 1:-1] - around).std()) / contrast

    return sharpness
