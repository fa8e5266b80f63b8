"""The codec of every pipeline with an `AutoencoderKL`: images to latents, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from loba_tui.core.associate.embeds import LatentMoments

_HALF_DTYPES = (torch.float16, torch.bfloat16)


class AutoencoderCodec:
    """The `Codec` of a container that has a pipeline; families with another VAE override parts.

    Attributes:
        vae_class: Class of the VAE, as model_index.json names it.
    """

    pipeline: DiffusionPipeline
    vae_class = "AutoencoderKL"

    def require(self, *components: str) -> None:
        """Have components of the pipeline in memory before they are used."""
        raise NotImplementedError

    @property
    def _vae_overflows(self) -> bool:
        """Whether the VAE's activations leave float16's range: what its configuration says."""
        return bool(getattr(self.pipeline.vae.config, "force_upcast", False))

    @property
    def decodes_in_float32(self) -> bool:
        """Whether the VAE, as it is held now, is brought to float32 while it is used."""
        return self.pipeline.vae.dtype in _HALF_DTYPES and self._vae_overflows

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Turn latents (B, C, h, w) into images (B, 3, H, W) in [0, 1], float32."""
        self.require("vae")
        mean, std = self._latent_statistics(latents)
        with self._vae_without_overflow() as vae:
            own = latents.float() * std / self._latent_scale + mean
            images = self.decode_own(own.to(vae.device, vae.dtype))
        return (images.float() / 2 + 0.5).clamp(0, 1)

    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) in [0, 1] into latent means (B, C, h, w), float32."""
        return self.encode_moments(images).mean

    @torch.no_grad()
    def encode_moments(self, images: Tensor) -> LatentMoments:
        """Turn images (B, 3, H, W) in [0, 1] into the moments of their latents, float32."""
        self.require("vae")
        with self._vae_without_overflow() as vae:
            pixels = (images * 2 - 1).to(vae.device, vae.dtype)
            found = self._encoded(vae, pixels)
            mean, std = self._latent_statistics(found.mean)
            scale = self._latent_scale
            scaled = (found.mean.float() - mean) * scale / std
            return LatentMoments(scaled, found.std.float() * scale / std)

    def _encoded(self, vae: Any, pixels: Tensor) -> LatentMoments:
        """Return the distributions (B, C, h, w) of the VAE's own latents."""
        found = vae.encode(pixels).latent_dist
        return LatentMoments(found.mean, found.std)

    def decode_own(self, latents: Tensor) -> Tensor:
        """Turn the VAE's own latents (B, C, h, w) into images (B, 3, H, W) in [-1, 1]."""
        images: Tensor = self.pipeline.vae.decode(latents, return_dict=False)[0]
        return images

    @property
    def _latent_scale(self) -> float:
        """By how much the VAE's own latents are multiplied; some have their statistics alone."""
        return float(getattr(self.pipeline.vae.config, "scaling_factor", 1.0))

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the VAE's own latents, (1, C or 1, 1, 1) each.

        Some fine-tunes (Playground 2.5) state both for each channel, other families a shift.
        """
        config = self.pipeline.vae.config
        shift = getattr(config, "shift_factor", None) or 0.0
        mean = getattr(config, "latents_mean", None) or (shift,)
        std = getattr(config, "latents_std", None) or (1.0,)
        return (
            torch.tensor(mean, device=latents.device).view(1, -1, 1, 1),
            torch.tensor(std, device=latents.device).view(1, -1, 1, 1),
        )

    @contextmanager
    def vae_held(self) -> Iterator[None]:
        """Hold the VAE for many calls as each of them would: it is cast once, not for each."""
        if self.pipeline.vae is None:  # who needs it brings it
            yield
            return
        with self._vae_without_overflow():
            yield

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
