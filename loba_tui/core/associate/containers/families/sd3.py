"""Stable Diffusion 3 and 3.5: words and image in two streams, read by two CLIPs and T5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from loba_tui.core.associate.containers.adapter_groups import Marks
from loba_tui.core.associate.containers.families.transformer import (
    TransformerContainer,
    dynamic_shift,
)
from loba_tui.core.associate.containers.prompt_truncation import truncated_tails
from loba_tui.core.associate.embeds import PromptEmbeds

_MOST_T5_TOKENS = 256


class SD3Container(TransformerContainer):
    """The container of `StableDiffusion3Pipeline` (https://arxiv.org/abs/2403.03206).

    A prompt's states are those of both CLIPs, one behind the other in width, and then those of T5.
    """

    family = "sd3"
    text_encoders: tuple[str, ...] = ("text_encoder", "text_encoder_2", "text_encoder_3")
    group_marks: Marks = (
        (".add_", "cross_attention"),
        (".to_add_out.", "cross_attention"),
        (".attn.", "self_attention"),
        (".attn2.", "self_attention"),  # a second one over the image alone, in SD 3.5 medium
        (".norm1.", "modulation"),
        (".norm1_context.", "modulation"),
        (".norm_out.", "modulation"),
        (".ff.", "feed_forward"),
        (".ff_context.", "feed_forward"),
        (".time_text_embed.", "time_embedding"),
        (".pos_embed.", "projection"),
        (".context_embedder.", "projection"),
        (".proj_out.", "projection"),
    )
    prompt_layers = ("context_embedder",)
    unread = (".add_q_proj",)
    first_layer = "context_embedder"

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        revision: str | None = None,
        *,
        resolution: int | None = None,
    ) -> None:
        super().__init__(pipeline, revision, resolution=resolution)
        # Many leave T5 out for its size; the pipeline then has zeros for its states. An encoder
        # that is not there now may come again, which its tokenizer tells.
        self._long_tokenizer = pipeline.tokenizer_3
        if self._long_tokenizer is None:
            self.text_encoders = self.text_encoders[:2]
            self._long_tokenizer = pipeline.tokenizer

    @property
    def most_tokens(self) -> int:
        """Tokens that T5 reads of a prompt; the CLIPs read 77."""
        return min(_MOST_T5_TOKENS, int(self._long_tokenizer.model_max_length))

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return a CLIP's token ids, padded to all that it reads, and behind them those of T5."""
        length, tokenizer = int(self._tokenizer.model_max_length), self._long_tokenizer
        rows: list[list[int]] = self._tokenizer(
            list(prompts), truncation=True, max_length=length, padding="max_length"
        ).input_ids
        if tokenizer is self._tokenizer:
            return rows
        more = tokenizer(list(prompts), truncation=True, max_length=self.most_tokens).input_ids
        # T5 counts its tokens anew; one number stands for one token of one of the two.
        first = len(self._tokenizer)
        return [row + [first + each for each in t5] for row, t5 in zip(rows, more, strict=True)]

    def truncated_tails(self, prompts: Sequence[str]) -> dict[str, str]:
        """Return of each prompt that is longer than what T5 reads the end that has no effect."""
        return truncated_tails(self._long_tokenizer, prompts, self.most_tokens)

    def _encode(self, prompts: list[str]) -> PromptEmbeds:
        states, _, pooled, _ = self.pipeline.encode_prompt(
            prompts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=_MOST_T5_TOKENS,
        )
        return PromptEmbeds(states, pooled)

    def zero_embeds(self) -> PromptEmbeds:
        """Return one row of zeros, (1, T, D), with a pooled state."""
        config = self.pipeline.transformer.config
        num_states = int(self._tokenizer.model_max_length) + _MOST_T5_TOKENS
        states = torch.zeros(1, num_states, config.joint_attention_dim)
        pooled = torch.zeros(1, config.pooled_projection_dim)
        return PromptEmbeds(states, pooled).to(self.device, self.dtype)

    def _velocity(
        self, transformer: nn.Module, latents: Tensor, timesteps: Tensor, embeds: PromptEmbeds
    ) -> Tensor:
        velocity: Tensor = transformer(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=embeds.embeds,
            pooled_projections=embeds.pooled,
            return_dict=False,
        )[0]
        return velocity

    def lay_out_steps(self, scheduler: Any, num_steps: int, latent_shape: Sequence[int]) -> None:
        """Set a scheduler's timesteps as the pipeline's own call does: by their number."""
        if not scheduler.config.get("use_dynamic_shifting"):
            scheduler.set_timesteps(num_steps)
            return
        mu = dynamic_shift({"max_shift": 1.16, **scheduler.config}, self._num_tokens(latent_shape))
        scheduler.set_timesteps(num_steps, mu=mu)

    def pipeline_inputs(
        self, embeds: PromptEmbeds, negative: PromptEmbeds, guidance_scale: float
    ) -> dict[str, Any]:
        """Return states, pooled ones, and the scale as it is."""
        return {
            "prompt_embeds": embeds.embeds,
            "pooled_prompt_embeds": embeds.pooled,
            "negative_prompt_embeds": negative.embeds,
            "negative_pooled_prompt_embeds": negative.pooled,
            "guidance_scale": guidance_scale,
        }
