"""Mean saturation of any image: distance between largest and smallest channel, 0 (gray) to 1."""

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
    """Return a function from an image (H, W, 3) to its mean chroma (of HSV, without dividing).

    Args:
        box: The part that is looked at: left, top, right and bottom as shares of the sides.
    """

    def mean_saturation(image: np.ndarray) -> float:
        chroma = image.max(axis=-1) - image.min(axis=-1)
        return float(chroma[inside_of(box, *chroma.shape)].mean())

    return mean_saturation
