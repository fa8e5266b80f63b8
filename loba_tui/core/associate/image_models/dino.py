"""DINOv2's embedding of an image: its class token after the last norm (arXiv 2304.07193)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Dinov2Model

from loba_tui.core.associate.image_models.files import PROCESSOR
from loba_tui.core.associate.image_models.loading import in_batches, load_weights
from loba_tui.core.associate.image_models.pixels import Processor


class Dino:
    """A DINOv2 model in float32."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._processor = Processor.read(folder / PROCESSOR)
        self._model = load_weights(Dinov2Model, folder, device)
        self._device = device

    def of_images(self, images: np.ndarray) -> Tensor:
        """Return the embeddings (N, D) of images (N, H, W, 3) in [0, 1], on the CPU."""

        def embed(some: np.ndarray) -> Tensor:
            pixels = self._processor(some).to(self._device)
            return self._model(pixel_values=pixels).pooler_output

        return F.normalize(in_batches(embed, images), dim=-1)
