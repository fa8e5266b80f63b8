"""Place of any image between two texts, by CLIP: what a slider is measured by on photographs.

100 times the projection of the image's embedding on the direction from the negative text's to the
positive text's, all three of unit length (https://arxiv.org/abs/2103.00020). Its zero means
nothing; differences between images of one prompt do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch.nn.functional as F

from loba_tui.core.associate.image_models.clip import Clip
from loba_tui.core.associate.image_models.models import ImageModels
from loba_tui.core.recipe.measure_models import MeasureModel

UNIT = "100 × cosine"
MODEL = "clip"
BATCHED = True
KEPT_WITHIN = None  # how far counts as moved depends on the two texts


def get_measure(
    models: ImageModels, *, positive: str, negative: str, model: str, revision: str | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images (samples, scales, H, W, 3) to values (samples, scales).

    Args:
        positive: Text of images whose value is high, such as "a photo of an old person".
        negative: Text of images whose value is low, such as "a photo of a young person".
        model: A CLIP model: builtin:shapes-clip for the drawn world, a folder, or a hub id.
        revision: Commit of a hub model.

    Raises:
        ValueError: Both texts are the same.
    """
    if positive == negative:
        raise ValueError(f"clip_direction: positive and negative are both {positive!r}")

    def clip_direction(samples: np.ndarray) -> np.ndarray:
        images = samples.reshape(-1, *samples.shape[2:])

        def project(clip: Clip) -> np.ndarray:
            high, low = clip.of_texts([positive, negative])
            along = F.normalize(high - low, dim=0)
            return (100 * clip.of_images(images) @ along).double().numpy()

        found = models.ask(Clip, MeasureModel(MODEL, model, revision), project)
        return found.reshape(samples.shape[:2])

    return clip_direction
