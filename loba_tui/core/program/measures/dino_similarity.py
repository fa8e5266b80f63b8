"""How much any image shows what the one at scale 0 shows: cosine of both DINOv2 embeddings.

As in DreamBooth's DINO metric (https://arxiv.org/abs/2208.12242), with DINOv2's class token
(https://arxiv.org/abs/2304.07193). 1 is the same; it heeds things, places and textures.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from loba_tui.core.associate.image_models.dino import Dino
from loba_tui.core.associate.image_models.models import ImageModels
from loba_tui.core.recipe.measure_models import MeasureModel

UNIT = "cosine to scale 0"
LIMITS = (-1.0, 1.0)
MODEL = "dino"
BATCHED = True
COMPARES = True
KEPT_WITHIN = 0.1


def get_measure(
    models: ImageModels, *, model: str, revision: str | None = None
) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return a function from images (samples, scales, H, W, 3) to similarities (samples, scales).

    It takes the index of scale 0 too.

    Args:
        model: A DINOv2 model: a folder, or a hub id such as facebook/dinov2-base.
        revision: Commit of a hub model.
    """

    def dino_similarity(samples: np.ndarray, base: int) -> np.ndarray:
        images = samples.reshape(-1, *samples.shape[2:])
        found = models.ask(
            Dino, MeasureModel(MODEL, model, revision), lambda dino: dino.of_images(images)
        )
        embeds = found.double().numpy().reshape(*samples.shape[:2], -1)
        return np.einsum("skd,sd->sk", embeds, embeds[:, base]).clip(*LIMITS)

    return dino_similarity
