"""Base of all Stable Diffusion models: CLIP text encoders, a UNet and a VAE."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from loba_tui.core.associate.containers.adapter_groups import (
    Marks,
    grouped_layers,
    layers_named,
)
from loba_tui.core.associate.containers.families.read_once import prompts_read_once
from loba_tui.core.associate.containers.families.row_by_row import RowByRow
from loba_tui.core.associate.containers.pipeline_container import (
    PROMPTS_AT_ONCE,
    PipelineContainer,
)
from loba_tui.core.associate.containers.pixels import latent_side
from loba_tui.core.associate.containers.prompt_reading import WeightedTokens
from loba_tui.core.associate.containers.text_outputs import TextOutput
from loba_tui.core.associate.embeds import Framing, PromptEmbeds, same_length
from loba_tui.core.associate.schedules import is_flow_matching

_GROUP_MARKS: Marks = (
    (".attn1.", "self_attention"),
    (".attn2.", "cross_attention"),
    (".ff.", "feed_forward"),
    (".proj_in", "projection"),
    (".proj_out", "projection"),
    (".time_emb_proj", "time_embedding"),
    (".resnets.", "convolution"),
    (".downsamplers.", "convolution"),
    (".upsamplers.", "convolution"),
)


class UNetContainer(PipelineContainer):
    """A `ModelContainer` but for what a family's UNet is conditioned on."""

    @abstractmethod
    def _encode_chunks(self, chunks: Sequence[WeightedTokens]) -> PromptEmbeds:
        """Return what `_encode` does of prompts with these tokens, weighted, one row a chunk."""

    @abstractmethod
    def _added_conditions(
        self, latents: Tensor, embeds: PromptEmbeds, framing: Framing | None
    ) -> dict[str, Tensor] | None:
        """Return what the UNet is told beside prompt and timestep, B rows each."""

    @abstractmethod
    def text_outputs(self) -> Sequence[TextOutput]:
        """Return where each text encoder's states can be moved, in the order of their columns."""

    @property
    def denoiser(self) -> nn.Module:
        return self.pipeline.unet

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the UNet's base weights, whatever an adapter on it is held in."""
        return self.pipeline.unet.conv_in.weight.dtype

    @property
    def prediction_type(self) -> str:
        """Target of the UNet: "epsilon", or what fine-tunes predict in its place."""
        config = self.pipeline.scheduler.config
        return "flow" if is_flow_matching(config) else config.prediction_type

    @property
    def resolution(self) -> int:
        return self._unet_config.sample_size * self.pipeline.vae_scale_factor

    @property
    def pixel_multiple(self) -> int:
        """Pixels that sides have to be multiples of.

        Below it the UNet's own down- and upsampling do not meet at the same size again.
        """
        num_halvings = len(self._unet_config.down_block_types) - 1
        return self.pipeline.vae_scale_factor * 2**num_halvings

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        side = latent_side(self, resolution)
        return (self._unet_config.in_channels, side, side)

    def _encoded_parts(self, prompts: Sequence[str]) -> list[PromptEmbeds]:
        if self.reading.is_plain:
            return super()._encoded_parts(prompts)
        return [self._read(prompt) for prompt in prompts]

    def encode_alone(self, prompts: Sequence[str]) -> list[PromptEmbeds]:
        """Return one row a prompt, to the bit as if no other were encoded; without gradients."""
        # Kernels of other devices are not held against single rows here.
        if not self.reading.is_plain or self.device.type != "cpu":
            return super().encode_alone(prompts)
        rows: list[PromptEmbeds] = []
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            some = prompts[start : start + PROMPTS_AT_ONCE]
            with RowByRow(len(some)):
                batch = self.encode_prompts(some)
            rows += [batch[row] for row in range(len(some))]
        return rows

    def _read(self, prompt: str) -> PromptEmbeds:
        """Return one row, of as many states as the prompt's chunks have."""
        tokens = self.reading.tokens(self._tokenizer, prompt)
        chunks = tokens.chunks(self._tokenizer.model_max_length - 2)
        if len(chunks) == 1 and not self.reading.weights:
            return self._encode([prompt])  # the very bits of a pipeline that knows no chunks
        rows = self._encode_chunks(chunks)
        pooled = None if rows.pooled is None else rows.pooled[:1]
        return PromptEmbeds(rows.embeds.flatten(0, 1)[None], pooled)

    def zero_embeds(self) -> PromptEmbeds:
        """Return one row of zeros of the shape that a prompt's embeddings have, (1, T, D)."""
        shape = (1, self._tokenizer.model_max_length, self._unet_config.cross_attention_dim)
        return PromptEmbeds(torch.zeros(shape, device=self.device, dtype=self.dtype))

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        embeds: PromptEmbeds,
        *,
        framing: Framing | None = None,
        denoiser: nn.Module | None = None,
    ) -> Tensor:
        embeds = embeds.to(latents.device, self.dtype)
        if len(embeds) == 1:
            embeds = embeds.expand(latents.shape[0])
        unet = self.pipeline.unet if denoiser is None else denoiser
        output = unet(
            latents.to(self.dtype),
            timesteps,
            encoder_hidden_states=embeds.embeds,
            added_cond_kwargs=self._added_conditions(latents, embeds, framing),
            return_dict=False,
        )[0]
        return output.to(latents.dtype)

    def prompts_read_once(self) -> AbstractContextManager[None]:
        """Keep keys and values of cross-attention inside a `with` block, on a CPU."""
        if self.device.type != "cpu":  # where it would take memory that is short, for little
            return nullcontext()
        return prompts_read_once(self.pipeline.unet)

    def lay_out_steps(self, scheduler: Any, num_steps: int, latent_shape: Sequence[int]) -> None:
        scheduler.set_timesteps(num_steps)

    def pipeline_inputs(
        self, embeds: PromptEmbeds, negative: PromptEmbeds, guidance_scale: float
    ) -> dict[str, Any]:
        embeds, negative = same_length([embeds, negative])
        pooled = {}
        if embeds.pooled is not None:
            pooled = {
                "pooled_prompt_embeds": embeds.pooled,
                "negative_pooled_prompt_embeds": negative.pooled,
            }
        return {
            "prompt_embeds": embeds.embeds,
            "negative_prompt_embeds": negative.embeds,
            "guidance_scale": guidance_scale,
            **pooled,
        }

    def adapter_targets(self) -> dict[str, list[str]]:
        """Return exact module names by group, in the UNet's own order."""
        return grouped_layers(self.pipeline.unet, _GROUP_MARKS)

    def text_projections(self) -> dict[str, nn.Linear]:
        """Return to_k and to_v of cross-attention."""
        return layers_named(
            self.denoiser,
            [
                name
                for name in self.adapter_targets()["cross_attention"]
                if name.endswith((".to_k", ".to_v"))
            ],
        )

    def projected_states(self, states: Tensor) -> Tensor:
        return states

    @property
    def _unet_config(self) -> Any:
        return self.pipeline.unet.config
