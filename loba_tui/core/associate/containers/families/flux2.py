"""FLUX.2 klein: FLUX with one modulation for all blocks, and a language model that reads."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn

from loba_tui.core.associate.containers.adapter_groups import Marks
from loba_tui.core.associate.containers.families.chats import ChatContainer
from loba_tui.core.associate.containers.families.packing import PATCH, grid_positions, pack, unpack
from loba_tui.core.associate.containers.families.transformer import NUM_TRAIN_TIMESTEPS
from loba_tui.core.associate.embeds import PromptEmbeds

_AXES = 4


class Flux2KleinContainer(ChatContainer):
    """The container of `Flux2KleinPipeline` (https://bfl.ai/blog/flux2-klein).

    All 512 states of a prompt are read, those of padding too, so that rows are of one length. The
    VAE has the statistics of its latents in a batch norm over squares of pixels.
    """

    family = "flux2-klein"
    vae_class = "AutoencoderKLFlux2"
    text_encoders = ("text_encoder",)
    thinking = False
    group_marks: Marks = (
        (".add_", "cross_attention"),
        (".to_add_out.", "cross_attention"),
        (".attn.", "self_attention"),  # joint blocks have their feed-forward layers in it too
        (".ff.", "feed_forward"),
        (".ff_context.", "feed_forward"),
        ("_modulation", "modulation"),
        (".norm_out.", "modulation"),
        (".time_guidance_embed.", "time_embedding"),
        (".x_embedder.", "projection"),
        (".context_embedder.", "projection"),
        (".proj_out.", "projection"),
    )
    prompt_layers = ("context_embedder",)
    first_layer = "x_embedder"

    @property
    def _latent_channels(self) -> int:
        return int(self.pipeline.transformer.config.in_channels // 4)

    def _encode(self, prompts: list[str]) -> PromptEmbeds:
        states, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=self.most_tokens
        )
        return PromptEmbeds(states)

    def zero_embeds(self) -> PromptEmbeds:
        """Return one row of zeros, (1, T, D)."""
        width = self.pipeline.transformer.config.joint_attention_dim
        shape = (1, self.most_tokens, width)
        return PromptEmbeds(torch.zeros(shape, device=self.device, dtype=self.dtype))

    def _velocity(
        self, transformer: nn.Module, latents: Tensor, timesteps: Tensor, embeds: PromptEmbeds
    ) -> Tensor:
        height, width = latents.shape[-2:]
        num_states = embeds.embeds.shape[1]
        words = torch.zeros((num_states, _AXES), device=latents.device)
        words[:, -1] = torch.arange(num_states, device=latents.device)
        tokens = transformer(
            hidden_states=pack(latents),
            timestep=timesteps / NUM_TRAIN_TIMESTEPS,
            guidance=None,
            encoder_hidden_states=embeds.embeds,
            txt_ids=words,
            img_ids=grid_positions(height, width, _AXES, latents.device),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def _shift(self, config: Any, num_tokens: int, num_steps: int) -> float:
        return float(compute_empirical_mu(num_tokens, num_steps))

    def pipeline_inputs(
        self, embeds: PromptEmbeds, negative: PromptEmbeds, guidance_scale: float
    ) -> dict[str, Any]:
        """Return states and scale; the distilled models draw without guidance, at any scale."""
        is_distilled = bool(self.pipeline.config.is_distilled)
        return {
            "prompt_embeds": embeds.embeds,
            "negative_prompt_embeds": negative.embeds,
            "guidance_scale": 1.0 if is_distilled else guidance_scale,
        }

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each of a square's four pixels, (1, C, h, w)."""
        vae, (height, width) = self.pipeline.vae, latents.shape[-2:]
        mean = vae.bn.running_mean.float()
        std = (vae.bn.running_var.float() + vae.config.batch_norm_eps).sqrt()
        one, other = (
            each.view(1, -1, PATCH, PATCH)
            .repeat(1, 1, height // PATCH, width // PATCH)
            .to(latents.device)
            for each in (mean, std)
        )
        return one, other
