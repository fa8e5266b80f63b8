"""Mean luminance of any image, 0 (black) to 1 (white)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from loba_tui.core.option_types import UnitFloat
from loba_tui.core.program.evaluation.region import inside_of

UNIT = "0 to 1"
LIMITS = (0.0, 1.0)


def get_measure(
    *, box: tuple[UnitFloat, UnitFloat, UnitFloat, UnitFloat] = (0.0, 0.0, 1.0, 1.0)
) -> Callable[[np.ndarray], float]:
    """Return a function from an image (H, W, 3) to its mean luminance (Rec. 709 weights).

    Args:
        box: The part that is looked at: left, top, right and bottom as shares of the sides.
    """
    weights = np.array([0.2126, 0.7152, 0.0722])

    def mean_brightness(image: np.ndarray) -> float:
        luminance = image @ weights
        return float(luminance[inside_of(box, *luminance.shape)].mean())

    return mean_brightness
