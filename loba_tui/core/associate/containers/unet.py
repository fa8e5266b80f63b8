"""Base of all Stable Diffusion models: CLIP text encoders, a UNet and a VAE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from loba_tui.core.associate.containers.base import ComponentMemory
from loba_tui.core.associate.containers.prompt_reading import PromptReading, WeightedTokens
from loba_tui.core.associate.containers.prompt_truncation import truncated_tails
from loba_tui.core.associate.containers.text_outputs import TextOutput
from loba_tui.core.associate.embeds import Framing, LatentMoments, PromptEmbeds
from loba_tui.core.errors import RecipeError

_PROMPTS_AT_ONCE = 32
_HALF_DTYPES = (torch.float16, torch.bfloat16)

_GROUP_MARKS = (
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
ADAPTER_GROUPS = tuple(dict.fromkeys(group for _, group in _GROUP_MARKS))


class UNetContainer(ABC):
    """A `ModelContainer` but for what a family's UNet is conditioned on.

    Its `text_encoders` are the components that are dropped once all prompts are encoded.
    """

    family: str
    text_encoders: tuple[str, ...]

    def __init__(self, pipeline: DiffusionPipeline, revision: str | None = None) -> None:
        self.pipeline = pipeline
        self.revision = revision
        self.memory: ComponentMemory | None = None
        self.reading = PromptReading()
        self.trains_text_encoders = False
        self._tokenizer = pipeline.tokenizer
        self._empty: PromptEmbeds | None = None

    @property
    @abstractmethod
    def unconditional_prompt(self) -> str | None:
        """The prompt that stands where none is given; None where that is zeros."""

    @abstractmethod
    def _encode(self, prompts: list[str]) -> PromptEmbeds:
        """Return what the pipeline's own `encode_prompt` does, one row a prompt."""

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
    @abstractmethod
    def _vae_overflows(self) -> bool:
        """Whether the VAE's activations leave float16's range."""

    @property
    def denoiser(self) -> nn.Module:
        return self.pipeline.unet

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes, also while it is offloaded."""
        return self.pipeline._execution_device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the UNet's base weights, whatever an adapter on it is held in."""
        return self.pipeline.unet.conv_in.weight.dtype

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        return self.pipeline.scheduler.config

    @property
    def prediction_type(self) -> str:
        """Target of the UNet: "epsilon", or "v_prediction" for some models and fine-tunes."""
        return self.pipeline.scheduler.config.prediction_type

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

    @property
    def decodes_in_float32(self) -> bool:
        return self.pipeline.vae.dtype in _HALF_DTYPES and self._vae_overflows

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        pixels = self.resolution if resolution is None else resolution
        multiple = self.pixel_multiple
        if pixels % multiple:
            raise RecipeError(
                f"train.resolution: {pixels} pixels do not fit this model.",
                f"Use a multiple of {multiple}; its own resolution is {self.resolution}.",
            )
        side = pixels // self.pipeline.vae_scale_factor
        return (self._unet_config.in_channels, side, side)

    def encode_prompts(self, prompts: Sequence[str], *, with_grad: bool = False) -> PromptEmbeds:
        self.require(*self.text_encoders)
        with torch.set_grad_enabled(with_grad):
            if not self.reading.is_plain:
                rows = PromptEmbeds.cat([self._read(prompt) for prompt in prompts])
            else:
                starts = range(0, len(prompts), _PROMPTS_AT_ONCE)
                rows = PromptEmbeds.cat(
                    [self._encode(list(prompts[at : at + _PROMPTS_AT_ONCE])) for at in starts]
                )
        return rows.of(*prompts)

    def _read(self, prompt: str) -> PromptEmbeds:
        """Return one row, of as many states as the prompt's chunks have."""
        tokens = self.reading.tokens(self._tokenizer, prompt)
        chunks = tokens.chunks(self._tokenizer.model_max_length - 2)
        if len(chunks) == 1 and not self.reading.weights:
            return self._encode([prompt])  # the very bits of a pipeline that knows no chunks
        rows = self._encode_chunks(chunks)
        pooled = None if rows.pooled is None else rows.pooled[:1]
        return PromptEmbeds(rows.embeds.flatten(0, 1)[None], pooled)

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer(
            list(prompts), truncation=True, max_length=self._tokenizer.model_max_length
        ).input_ids

    def truncated_tails(self, prompts: Sequence[str]) -> dict[str, str]:
        if self.reading.long_prompts == "chunks":
            return {}
        return truncated_tails(self._tokenizer, prompts)

    @property
    def most_tokens(self) -> int:
        return self._tokenizer.model_max_length

    def empty_embeds(self) -> PromptEmbeds:
        if self._empty is None:
            prompt = self.unconditional_prompt
            if prompt is None:
                self._empty = self.zero_embeds().of(None)
            else:
                self._empty = self.encode_prompts([prompt])
        return self._empty

    def zero_embeds(self) -> PromptEmbeds:
        """Return one row of zeros of the shape that a prompt's embeddings have, (1, T, D)."""
        shape = (1, self._tokenizer.model_max_length, self._unet_config.cross_attention_dim)
        return PromptEmbeds(torch.zeros(shape, device=self.device, dtype=self.dtype))

    def adopt_empty(self, row: PromptEmbeds) -> None:
        self._empty = row

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

    def adapter_targets(self) -> dict[str, list[str]]:
        """Return exact module names by group, in the UNet's own order."""
        groups: dict[str, list[str]] = {group: [] for group in ADAPTER_GROUPS}
        for name, module in self.pipeline.unet.named_modules():
            # An adapter that is already there holds the layer it wraps as `base_layer`.
            if not isinstance(module, nn.Linear | nn.Conv2d) or ".lora_" in name:
                continue
            name = name.removesuffix(".base_layer")
            group = next((group for mark, group in _GROUP_MARKS if mark in f".{name}"), None)
            if group is not None:
                groups[group].append(name)
        return groups

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Turn latents (B, 4, h, w) into images (B, 3, H, W) in [0, 1], float32."""
        self.require("vae")
        mean, std = self._latent_statistics(latents)
        with self._vae_without_overflow() as vae:
            scaled = latents.float() * std / vae.config.scaling_factor + mean
            images = vae.decode(scaled.to(vae.device, vae.dtype), return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) in [0, 1] into latent means (B, 4, h, w), float32."""
        return self.encode_moments(images).mean

    @torch.no_grad()
    def encode_moments(self, images: Tensor) -> LatentMoments:
        """Turn images (B, 3, H, W) in [0, 1] into the moments of their latents, float32."""
        self.require("vae")
        with self._vae_without_overflow() as vae:
            pixels = (images * 2 - 1).to(vae.device, vae.dtype)
            found = vae.encode(pixels).latent_dist
            mean, std = self._latent_statistics(found.mean)
            scaled = (found.mean.float() - mean) * vae.config.scaling_factor / std
            return LatentMoments(scaled, found.std.float() * vae.config.scaling_factor / std)

    def release_text_encoders(self) -> None:
        """Drop the text encoders; `empty_embeds` and sampling from embeddings go on working."""
        self.empty_embeds()
        if self.trains_text_encoders:
            return
        names = self.text_encoders
        here = [name for name in names if getattr(self.pipeline, name) is not None]
        if self.memory is not None and here:
            self.memory.drop(here)
        else:
            self.pipeline.register_modules(**dict.fromkeys(names))

    def require(self, *components: str) -> None:
        wanted = [name for name in components if self._is_away(getattr(self.pipeline, name))]
        if wanted and self.memory is not None:
            self.memory.bring(wanted)
        gone = [name for name in components if getattr(self.pipeline, name) is None]
        if gone:
            raise RuntimeError(f"{' and '.join(gone)} was released, and nobody can load it again")

    def _is_away(self, module: nn.Module | None) -> bool:
        if module is None:
            return True
        # Where accelerate's hooks move components, they do so when these are called.
        return not hasattr(module, "_hf_hook") and module.device != self.device

    @property
    def _unet_config(self) -> Any:
        return self.pipeline.unet.config

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and std of latents that some fine-tunes (Playground 2.5) give."""
        config = self.pipeline.vae.config
        mean = getattr(config, "latents_mean", None) or (0.0,)
        std = getattr(config, "latents_std", None) or (1.0,)
        return (
            torch.tensor(mean, device=latents.device).view(1, -1, 1, 1),
            torch.tensor(std, device=latents.device).view(1, -1, 1, 1),
        )

    @contextmanager
    def _vae_without_overflow(self) -> Iterator[Any]:
        """Hold the VAE in float32 while it is used, where half would overflow.

        The pipeline does the same when it is called. Kept in float32 all the time, the VAE would
        meet half-precision latents there and raise.
        """
        vae = self.pipeline.vae
        held, upcast = vae.dtype, self.decodes_in_float32
        if upcast:
            vae.to(dtype=torch.float32)
        try:
            yield vae
        finally:
            if upcast:
                vae.to(dtype=held)
