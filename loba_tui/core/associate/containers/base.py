"""What the trainer asks of a model of any family: the container protocol and its embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn


@dataclass(frozen=True)
class PromptEmbeds:
    """What a denoiser is conditioned on, one row a prompt.

    Attributes:
        embeds: Hidden states of the text encoders, (B, T, D).
        pooled: Pooled state, (B, P); None for families that have none.
    """

    embeds: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.embeds.shape[0]

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> PromptEmbeds:
        """Return the given rows; a single index keeps the batch dimension."""
        if isinstance(rows, int):
            rows = [rows]
        elif not isinstance(rows, slice | Tensor):
            rows = list(rows)
        return PromptEmbeds(self.embeds[rows], None if self.pooled is None else self.pooled[rows])

    def select(self, indices: Sequence[int] | Tensor) -> PromptEmbeds:
        """Return the rows of the given indices, in that order, repeats allowed."""
        return self[indices]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> PromptEmbeds:
        """Return the same embeddings on a device and in a dtype; None leaves either as it is."""
        pooled = None if self.pooled is None else self.pooled.to(device=device, dtype=dtype)
        return PromptEmbeds(self.embeds.to(device=device, dtype=dtype), pooled)

    def expand(self, num_rows: int) -> PromptEmbeds:
        """Return a single row repeated to a batch, without copying it."""
        pooled = None if self.pooled is None else self.pooled.expand(num_rows, -1)
        return PromptEmbeds(self.embeds.expand(num_rows, -1, -1), pooled)

    @staticmethod
    def cat(parts: Sequence[PromptEmbeds]) -> PromptEmbeds:
        """Join rows of the same family into one batch."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return PromptEmbeds(
            torch.cat([part.embeds for part in parts]), torch.cat(pooled) if pooled else None
        )


@dataclass(frozen=True)
class LatentMoments:
    """The distribution that an image's latent is drawn from, scaled as the denoiser takes it.

    Attributes:
        mean: (B, C, h, w).
        std: As many; the same scaling is in it.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return the latents that this standard normal noise (B, C, h, w) draws."""
        return self.mean + self.std * noise


@dataclass(frozen=True)
class Framing:
    """How each row's image was cut out of its file, for models that are told so (SD-XL).

    Such a model has learned what upscaled and cut images look like, and can be asked for neither
    (micro-conditioning, https://arxiv.org/abs/2307.01952, section 2.2).

    Attributes:
        original_size: Height and width of the image as it came, in pixels, (B, 2).
        crop_top_left: Top and left of the cut, in pixels of the image as it was scaled, (B, 2).
    """

    original_size: Tensor
    crop_top_left: Tensor

    def repeat(self, times: int) -> Framing:
        """Return all rows again and again."""
        return Framing(self.original_size.repeat(times, 1), self.crop_top_left.repeat(times, 1))


class ComponentMemory(Protocol):
    """Whoever can bring a pipeline's components into memory, and drop them."""

    def bring(self, names: Sequence[str]) -> None:
        """Load what is not there, and move what is elsewhere to the device."""
        ...

    def drop(self, names: Sequence[str]) -> None:
        """Free the memory of components; they can be brought again."""
        ...


class ModelContainer(Protocol):
    """A loaded pipeline, spoken to in the same words for every model family.

    Attributes:
        family: Short name of the architecture, such as "sdxl".
        pipeline: The diffusers pipeline that everything below operates on.
        revision: The commit of the hub that was loaded; None for local and built-in models.
        memory: Brings components that were unloaded or offloaded; None where nobody can.
    """

    family: str
    pipeline: DiffusionPipeline
    revision: str | None
    memory: ComponentMemory | None

    @property
    def denoiser(self) -> nn.Module:
        """The network that is trained: a UNet or a transformer."""
        ...

    @property
    def device(self) -> torch.device:
        """Where predictions are computed."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the denoiser's base weights are held in."""
        ...

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """The noise schedule the model was trained with, as diffusers writes it."""
        ...

    @property
    def prediction_type(self) -> str:
        """What the denoiser predicts: "epsilon", "v_prediction" or "flow"."""
        ...

    @property
    def resolution(self) -> int:
        """The side, in pixels, of the square images the model is made for."""
        ...

    @property
    def pixel_multiple(self) -> int:
        """What the sides of an image have to be multiples of, in pixels."""
        ...

    @property
    def decodes_in_float32(self) -> bool:
        """Whether the VAE, as it is held now, is brought to float32 while it is used."""
        ...

    @property
    def unconditional_prompt(self) -> str | None:
        """The prompt that stands where none is given; None where that is zeros."""
        ...

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        """Return (C, H, W) of one latent; None takes the model's own resolution in pixels."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbeds:
        """Return one row a prompt, as the pipeline conditions its positive half."""
        ...

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each prompt, start and end included, padding not.

        Token i of a prompt is position i of its hidden states. It works without the encoders too.
        """
        ...

    @property
    def most_tokens(self) -> int:
        """Tokens of a prompt that are read, start and end included."""
        ...

    def cut_ends(self, prompts: Sequence[str]) -> dict[str, str]:
        """Return of each prompt that is longer than what is read the end that has no effect."""
        ...

    def empty_embeds(self) -> PromptEmbeds:
        """Return the one row that the pipeline uses when no negative prompt is given."""
        ...

    def zero_embeds(self) -> PromptEmbeds:
        """Return one row of zeros of the shape that a prompt's embeddings have."""
        ...

    def adopt_empty(self, row: PromptEmbeds) -> None:
        """Take the embeddings of `unconditional_prompt`, so that no encoder is needed for it."""
        ...

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        embeds: PromptEmbeds,
        *,
        framing: Framing | None = None,
        denoiser: nn.Module | None = None,
    ) -> Tensor:
        """Return the denoiser's raw output.

        Args:
            latents: (B, C, H, W), scaled as the denoiser takes them.
            timesteps: (B,) or a scalar for all rows.
            embeds: B rows, or one row for all.
            framing: Where the rows' images were cut from; None says that they are whole images of
                the size of `latents`. Models that are not told pass it over.
            denoiser: A wrapped denoiser (data-parallel, compiled) to be called instead.

        Returns:
            (B, C, H, W), in the dtype of `latents`.
        """
        ...

    def adapter_targets(self) -> dict[str, list[str]]:
        """Return exact names of the denoiser's modules that can take an adapter, by group.

        Groups: self_attention, cross_attention, feed_forward, projection, convolution,
        time_embedding.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Turn latents (B, C, h, w) into images (B, 3, H, W) in [0, 1]."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) in [0, 1] into latents (B, C, h, w)."""
        ...

    def encode_moments(self, images: Tensor) -> LatentMoments:
        """Turn images (B, 3, H, W) in [0, 1] into the distributions of their latents."""
        ...

    def require(self, *components: str) -> None:
        """Have components of the pipeline in memory and on the device before they are used.

        Raises:
            RuntimeError: One was released, and nobody can bring it back.
        """
        ...

    def release_text_encoders(self) -> None:
        """Drop the text encoders from memory; sampling from embeddings goes on working."""
        ...
