"""FLUX.1: blocks for words and image side by side, then joint ones; T5 for words, CLIP for all."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from loba_tui.core.associate.containers.adapter_groups import Marks
from loba_tui.core.associate.containers.families.packing import grid_positions, pack, unpack
from loba_tui.core.associate.containers.families.transformer import (
    NUM_TRAIN_TIMESTEPS,
    TransformerContainer,
)
from loba_tui.core.associate.embeds import PromptEmbeds

_MOST_TOKENS = 512
_AXES = 3


class FluxContainer(TransformerContainer):
    """The container of `FluxPipeline` (https://arxiv.org/abs/2506.15742, section 2).

    FLUX.1-dev is told a guidance scale w and has learned to answer with what guidance would give
    (Meng et al. 2022, https://arxiv.org/abs/2210.03142). It is trained and asked here at w = 1, its
    prediction for the prompt alone, and drawn with at the w that is asked for.
    """

    family = "flux"
    text_encoders = ("text_encoder", "text_encoder_2")
    group_marks: Marks = (
        (".add_", "cross_attention"),
        (".to_add_out.", "cross_attention"),
        (".attn.", "self_attention"),
        (".norm1.", "modulation"),
        (".norm1_context.", "modulation"),
        (".norm.", "modulation"),
        (".norm_out.", "modulation"),
        (".ff.", "feed_forward"),
        (".ff_context.", "feed_forward"),
        (".proj_mlp.", "feed_forward"),
        ("_blocks.", "feed_forward"),  # a joint block's own proj_out
        (".time_text_embed.", "time_embedding"),
        (".x_embedder.", "projection"),
        (".context_embedder.", "projection"),
        (".proj_out.", "projection"),
    )
    prompt_layers = ("context_embedder",)
    first_layer = "x_embedder"

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        revision: str | None = None,
        *,
        resolution: int | None = None,
    ) -> None:
        super().__init__(pipeline, revision, resolution=resolution)
        self._tokenizer = pipeline.tokenizer_2  # T5's states are those that words stand in

    @property
    def most_tokens(self) -> int:
        """Tokens that T5 reads of a prompt; CLIP, which gives one state for all, reads 77."""
        return min(_MOST_TOKENS, int(self._tokenizer.model_max_length))

    @property
    def _latent_channels(self) -> int:
        return int(self.pipeline.transformer.config.in_channels // 4)

    @property
    def _is_told_guidance(self) -> bool:
        return bool(self.pipeline.transformer.config.guidance_embeds)

    def _encode(self, prompts: list[str]) -> PromptEmbeds:
        states, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.most_tokens
        )
        return PromptEmbeds(states, pooled)

    def zero_embeds(self) -> PromptEmbeds:
        """Return one row of zeros, (1, T, D), with a pooled state."""
        config = self.pipeline.transformer.config
        states = torch.zeros(1, self.most_tokens, config.joint_attention_dim)
        pooled = torch.zeros(1, config.pooled_projection_dim)
        return PromptEmbeds(states, pooled).to(self.device, self.dtype)

    def _velocity(
        self, transformer: nn.Module, latents: Tensor, timesteps: Tensor, embeds: PromptEmbeds
    ) -> Tensor:
        height, width = latents.shape[-2:]
        tokens = transformer(
            hidden_states=pack(latents),
            timestep=timesteps / NUM_TRAIN_TIMESTEPS,
            guidance=torch.ones_like(timesteps) if self._is_told_guidance else None,
            pooled_projections=embeds.pooled,
            encoder_hidden_states=embeds.embeds,
            txt_ids=torch.zeros((embeds.embeds.shape[1], _AXES), device=latents.device),
            img_ids=grid_positions(height, width, _AXES, latents.device),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def pipeline_inputs(
        self, embeds: PromptEmbeds, negative: PromptEmbeds, guidance_scale: float
    ) -> dict[str, Any]:
        """Return states, and the scale as this model takes it: told, or by two predictions."""
        own = {"prompt_embeds": embeds.embeds, "pooled_prompt_embeds": embeds.pooled}
        if self._is_told_guidance:
            return {**own, "guidance_scale": guidance_scale}
        return {
            **own,
            "negative_prompt_embeds": negative.embeds,
            "negative_pooled_prompt_embeds": negative.pooled,
            "true_cfg_scale": guidance_scale,
        }
