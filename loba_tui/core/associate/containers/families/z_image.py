"""Z-Image: one transformer over words and image, and a language model that reads the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ZImagePipeline
from torch import Tensor, nn

from loba_tui.core.associate.containers.adapter_groups import Marks
from loba_tui.core.associate.containers.families.chats import ChatContainer
from loba_tui.core.associate.containers.families.transformer import NUM_TRAIN_TIMESTEPS
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.joined_tokens import note_joined_tokens

_TOKEN_MULTIPLE = 32
"""Captions and images are padded to a multiple of it."""


class ZImageContainer(ChatContainer):
    """The container of `ZImagePipeline` (https://arxiv.org/abs/2511.22699)."""

    family = "z-image"
    text_encoders = ("text_encoder",)
    group_marks: Marks = (
        (".attention.", "self_attention"),
        (".feed_forward.", "feed_forward"),
        (".adaLN_modulation.", "modulation"),
        (".cap_embedder.", "projection"),
    )
    prompt_layers = ("cap_embedder.1",)
    first_layer = "cap_embedder.1"

    def __init__(
        self,
        pipeline: ZImagePipeline,
        revision: str | None = None,
        *,
        resolution: int | None = None,
    ) -> None:
        super().__init__(pipeline, revision, resolution=resolution)
        note_joined_tokens(pipeline.transformer, _caption_tokens)

    @property
    def most_tokens(self) -> int:
        """Tokens of a prompt that are read; the transformer has places for no more."""
        places = int(self.pipeline.transformer.config.axes_lens[0]) - 2
        return min(super().most_tokens, places // _TOKEN_MULTIPLE * _TOKEN_MULTIPLE)

    def _encode(self, prompts: list[str]) -> PromptEmbeds:
        rows, _ = self.pipeline.encode_prompt(
            list(prompts),  # the pipeline writes into the list that it is given
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.most_tokens,
        )
        return PromptEmbeds.ragged(rows)

    def zero_embeds(self) -> PromptEmbeds:
        """Return one row of zeros, (1, T, D), of as many tokens as a prompt may have."""
        width = self.pipeline.transformer.config.cap_feat_dim
        states = torch.zeros((1, self.most_tokens, width), device=self.device, dtype=self.dtype)
        return PromptEmbeds(states, lengths=torch.tensor([self.most_tokens]))

    def projected_states(self, states: Tensor) -> Tensor:
        """Return the norm of the states: what the caption embedder's linear layer reads."""
        norm = self.pipeline.transformer.cap_embedder[0]
        with torch.no_grad():
            normed: Tensor = norm(states.to(self.device, self.dtype))
        return normed

    def _velocity(
        self, transformer: nn.Module, latents: Tensor, timesteps: Tensor, embeds: PromptEmbeds
    ) -> Tensor:
        # It is told 1 − σ and says x₀ − ε. Frames are the second dimension: an image has one.
        images = list(latents.unsqueeze(2))
        times = (NUM_TRAIN_TIMESTEPS - timesteps) / NUM_TRAIN_TIMESTEPS
        rows = transformer(images, times, embeds.rows(), return_dict=False)[0]
        return -torch.stack(rows).squeeze(2)

    def pipeline_inputs(
        self, embeds: PromptEmbeds, negative: PromptEmbeds, guidance_scale: float
    ) -> dict[str, Any]:
        """Return lists of states; this pipeline adds (w − 1)(c − ∅) to c."""
        return {
            "prompt_embeds": embeds.rows(),
            "negative_prompt_embeds": negative.rows(),
            "guidance_scale": guidance_scale - 1.0,
            "max_sequence_length": self.most_tokens,
        }


def _caption_tokens(
    x: Sequence[Tensor], t: Tensor, cap_feats: Sequence[Tensor], *args: Any, **kwargs: Any
) -> list[int]:
    """Return how many tokens each caption has once it is padded."""
    return [-(-len(states) // _TOKEN_MULTIPLE) * _TOKEN_MULTIPLE for states in cap_feats]
