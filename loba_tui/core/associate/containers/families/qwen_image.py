"""Qwen-Image: words and image in two streams, words read by a model of language and pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from loba_tui.core.associate.containers.adapter_groups import Marks
from loba_tui.core.associate.containers.families.chats import ChatContainer
from loba_tui.core.associate.containers.families.packing import PATCH, pack, unpack
from loba_tui.core.associate.containers.families.transformer import NUM_TRAIN_TIMESTEPS
from loba_tui.core.associate.embeds import LatentMoments, PromptEmbeds


class QwenImageContainer(ChatContainer):
    """The container of `QwenImagePipeline` (https://arxiv.org/abs/2508.02324).

    Its pipeline makes the guided prediction as long as the prompt's own, token by token; schemes
    that guide in training do not.
    """

    family = "qwen-image"
    vae_class = "AutoencoderKLQwenImage"
    text_encoders = ("text_encoder",)
    group_marks: Marks = (
        (".add_", "cross_attention"),
        (".to_add_out.", "cross_attention"),
        (".attn.", "self_attention"),
        (".img_mlp.", "feed_forward"),
        (".txt_mlp.", "feed_forward"),
        (".img_mod.", "modulation"),
        (".txt_mod.", "modulation"),
        (".norm_out.", "modulation"),
        (".time_text_embed.", "time_embedding"),
        (".img_in.", "projection"),
        (".txt_in.", "projection"),
        (".proj_out.", "projection"),
    )
    prompt_layers = ("txt_in",)
    unread = (".add_q_proj", ".to_add_out", ".txt_mlp.net.0.proj", ".txt_mlp.net.2")
    first_layer = "img_in"

    @property
    def _num_dropped(self) -> int:
        """Tokens of the instructions that stand before every prompt."""
        return int(self.pipeline.prompt_template_encode_start_idx)

    @property
    def _latent_channels(self) -> int:
        return int(self.pipeline.transformer.config.in_channels // 4)

    def _chat(self, prompt: str) -> str:
        return str(self.pipeline.prompt_template_encode.format(prompt))

    def _encode(self, prompts: list[str]) -> PromptEmbeds:
        states, mask = self.pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.most_tokens
        )
        full = torch.full((len(prompts),), states.shape[1])
        return PromptEmbeds(states, lengths=full if mask is None else mask.sum(1).cpu())

    def zero_embeds(self) -> PromptEmbeds:
        """Return one row of zeros, (1, T, D), of as many tokens as a prompt may have."""
        width = self.pipeline.transformer.config.joint_attention_dim
        states = torch.zeros((1, self.most_tokens, width), device=self.device, dtype=self.dtype)
        return PromptEmbeds(states, lengths=torch.tensor([self.most_tokens]))

    def projected_states(self, states: Tensor) -> Tensor:
        """Return the norm of the states, which is what the layer for words reads."""
        norm = self.pipeline.transformer.txt_norm
        with torch.no_grad():
            normed: Tensor = norm(states.to(self.device, self.dtype))
        return normed

    def _velocity(
        self, transformer: nn.Module, latents: Tensor, timesteps: Tensor, embeds: PromptEmbeds
    ) -> Tensor:
        height, width = latents.shape[-2:]
        shape = (1, height // PATCH, width // PATCH)
        tokens = transformer(
            hidden_states=pack(latents),
            timestep=timesteps / NUM_TRAIN_TIMESTEPS,
            encoder_hidden_states=embeds.embeds,
            encoder_hidden_states_mask=_mask(embeds),
            img_shapes=[[shape]] * len(latents),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def pipeline_inputs(
        self, embeds: PromptEmbeds, negative: PromptEmbeds, guidance_scale: float
    ) -> dict[str, Any]:
        """Return states and masks; without guidance the pipeline wants no negative prompt."""
        inputs: dict[str, Any] = {
            "prompt_embeds": embeds.embeds,
            "prompt_embeds_mask": embeds.mask(),
            "true_cfg_scale": guidance_scale,
        }
        if guidance_scale > 1:
            inputs["negative_prompt_embeds"] = negative.embeds
            inputs["negative_prompt_embeds_mask"] = negative.mask()
        return inputs

    def _encoded(self, vae: Any, pixels: Tensor) -> LatentMoments:
        # The VAE is one of films: an image is a film of one frame.
        found = vae.encode(pixels.unsqueeze(2)).latent_dist
        return LatentMoments(found.mean.squeeze(2), found.std.squeeze(2))

    def decode_own(self, latents: Tensor) -> Tensor:
        """Turn the VAE's own latents (B, C, h, w) into images (B, 3, H, W) in [-1, 1]."""
        films: Tensor = self.pipeline.vae.decode(latents.unsqueeze(2), return_dict=False)[0]
        return films.squeeze(2)


def _mask(embeds: PromptEmbeds) -> Tensor | None:
    """Return which states are prompts'; None where all are, for which attention is faster."""
    if embeds.lengths is None or bool((embeds.lengths == embeds.embeds.shape[1]).all()):
        return None
    return embeds.mask()
