"""CLIP's embeddings of images and texts, of unit length (https://arxiv.org/abs/2103.00020)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from loba_tui.core.associate.containers.tokenizers import open_tokenizer
from loba_tui.core.associate.image_models.files import PROCESSOR
from loba_tui.core.associate.image_models.loading import in_batches, load_weights
from loba_tui.core.associate.image_models.pixels import Processor


class Clip:
    """A CLIP model in float32."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._processor = Processor.read(folder / PROCESSOR)
        self._tokenizer = open_tokenizer(folder)
        self._model = load_weights(CLIPModel, folder, device)
        self._device = device

    def of_images(self, images: np.ndarray) -> Tensor:
        """Return the embeddings (N, D) of images (N, H, W, 3) in [0, 1], on the CPU."""

        def embed(some: np.ndarray) -> Tensor:
            pixels = self._processor(some).to(self._device)
            return self._model.get_image_features(pixel_values=pixels).pooler_output

        return F.normalize(in_batches(embed, images), dim=-1)

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings (N, D) of texts, cut where the model's context ends, on the CPU."""
        longest = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self._device)
        features = self._model.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
        return F.normalize(features.pooler_output.float().cpu(), dim=-1)
