"""How well any image fits a text, by CLIP: 100 times the cosine of both embeddings, 0 at least.

CLIPScore (https://arxiv.org/abs/2104.08718), scaled as torchmetrics and most reports have it: with
w = 100 in place of the paper's 2.5.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from loba_tui.core.associate.image_models.clip import Clip
from loba_tui.core.associate.image_models.models import ImageModels
from loba_tui.core.recipe.measure_models import MeasureModel

UNIT = "100 × cosine"
LIMITS = (0.0, 100.0)
MODEL = "clip"
BATCHED = True


def get_measure(
    models: ImageModels, *, text: str, model: str, revision: str | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images (samples, scales, H, W, 3) to scores (samples, scales).

    Args:
        text: What images are compared with, such as "a photo of a cat".
        model: A CLIP model: builtin:shapes-clip for the drawn world, a folder, or a hub id.
        revision: Commit of a hub model.
    """

    def clip_score(samples: np.ndarray) -> np.ndarray:
        images = samples.reshape(-1, *samples.shape[2:])

        def score(clip: Clip) -> np.ndarray:
            (wanted,) = clip.of_texts([text])
            return (100 * clip.of_images(images) @ wanted).clamp(min=0).double().numpy()

        found = models.ask(Clip, MeasureModel(MODEL, model, revision), score)
        return found.reshape(samples.shape[:2])

    return clip_score
