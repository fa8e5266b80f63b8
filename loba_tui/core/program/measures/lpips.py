"""How different any image looks from the one at scale 0: LPIPS (https://arxiv.org/abs/1801.03924).

Version 0.1 with VGG-16, as the authors' package computes it. 0 is the same; it heeds places, so a
thing that moves counts as a difference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from loba_tui.core.associate.image_models.lpips import Lpips
from loba_tui.core.associate.image_models.models import ImageModels
from loba_tui.core.recipe.measure_models import MeasureModel

UNIT = "distance to scale 0"
MODEL = "lpips"
BATCHED = True
COMPARES = True
KEPT_WITHIN = 0.1


def get_measure(
    models: ImageModels, *, model: str, revision: str | None = None
) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return a function from images (samples, scales, H, W, 3) to distances (samples, scales).

    It takes the index of scale 0 too.

    Args:
        model: VGG-16 of ImageNet: a folder, or a hub id such as timm/vgg16.tv_in1k.
        revision: Commit of a hub model.
    """

    def lpips(samples: np.ndarray, base: int) -> np.ndarray:
        def compare(reader: Lpips) -> np.ndarray:
            each = [reader.to_one(sample, sample[base]) for sample in samples]
            return np.stack([distances.double().numpy() for distances in each])

        return models.ask(Lpips, MeasureModel(MODEL, model, revision), compare)

    return lpips
