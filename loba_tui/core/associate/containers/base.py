"""The protocol by which the trainer speaks to a model of any family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from loba_tui.core.associate.containers.prompt_reading import PromptReading
from loba_tui.core.associate.containers.text_outputs import TextOutput
from loba_tui.core.associate.embeds import Framing, LatentMoments, PromptEmbeds


class ComponentMemory(Protocol):
    """Whoever can bring a pipeline's components into memory, and drop them."""

    def bring(self, names: Sequence[str]) -> None:
        """Load what is not there, and move what is elsewhere to the device."""

    def drop(self, names: Sequence[str]) -> None:
        """Free the memory of components; they can be brought again."""


class ModelContainer(Protocol):
    """A loaded pipeline, spoken to in the same words for every model family.

    Attributes:
        family: Short name of the architecture, such as "sdxl".
        pipeline: The diffusers pipeline that everything below operates on.
        revision: The commit of the hub that was loaded; None for local and built-in models.
        reading: How prompts are read; as every pipeline does until it is set.
        memory: Brings components that were unloaded or offloaded; None where nobody can.
        text_encoders: The pipeline's components that read prompts.
        trains_text_encoders: Whether they carry weights that exist nowhere else and must stay.
    """

    family: str
    pipeline: DiffusionPipeline
    revision: str | None
    memory: ComponentMemory | None
    reading: PromptReading
    text_encoders: tuple[str, ...]
    trains_text_encoders: bool

    @property
    def denoiser(self) -> nn.Module:
        """The network that is trained: a UNet or a transformer."""

    @property
    def device(self) -> torch.device:
        """Where predictions are computed."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the denoiser's base weights are held in."""

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """The noise schedule the model was trained with, as diffusers writes it."""

    @property
    def prediction_type(self) -> str:
        """Target of the denoiser: "epsilon", "v_prediction" or "flow"."""

    @property
    def resolution(self) -> int:
        """The side, in pixels, of the square images the model is made for."""

    @property
    def pixel_multiple(self) -> int:
        """Pixels that the sides of an image have to be multiples of."""

    @property
    def decodes_in_float32(self) -> bool:
        """Whether the VAE, as it is held now, is brought to float32 while it is used."""

    @property
    def unconditional_prompt(self) -> str | None:
        """The prompt that stands where none is given; None where that is zeros."""

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        """Return (C, H, W) of one latent; None takes the model's own resolution in pixels."""

    def encode_prompts(self, prompts: Sequence[str], *, with_grad: bool = False) -> PromptEmbeds:
        """Return one row a prompt, as the pipeline conditions its positive half.

        Args:
            with_grad: Record gradients, for encoders that are trained.
        """

    def text_outputs(self) -> Sequence[TextOutput]:
        """Return where each text encoder's states can be moved, in the order of their columns."""

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each prompt, start and end included, padding not.

        Token i of a prompt is position i of its hidden states. It works without the encoders too.
        """

    @property
    def most_tokens(self) -> int:
        """Tokens of a prompt that are read, start and end included."""

    def truncated_tails(self, prompts: Sequence[str]) -> dict[str, str]:
        """Return of each prompt that is longer than what is read the end that has no effect."""

    def empty_embeds(self) -> PromptEmbeds:
        """Return the one row that the pipeline uses when no negative prompt is given."""

    def zero_embeds(self) -> PromptEmbeds:
        """Return one row of zeros of the shape that a prompt's embeddings have."""

    def adopt_empty(self, row: PromptEmbeds) -> None:
        """Take the embeddings of `unconditional_prompt`, so that no encoder is needed for it."""

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

    def adapter_targets(self) -> dict[str, list[str]]:
        """Return exact names of the denoiser's modules that can take an adapter, by group.

        Groups: self_attention, cross_attention, feed_forward, projection, convolution,
        time_embedding.
        """

    def decode(self, latents: Tensor) -> Tensor:
        """Turn latents (B, C, h, w) into images (B, 3, H, W) in [0, 1]."""

    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) in [0, 1] into latents (B, C, h, w)."""

    def encode_moments(self, images: Tensor) -> LatentMoments:
        """Turn images (B, 3, H, W) in [0, 1] into the distributions of their latents."""

    def require(self, *components: str) -> None:
        """Have components of the pipeline in memory and on the device before they are used.

        Raises:
            RuntimeError: One was released, and nobody can bring it back.
        """

    def release_text_encoders(self) -> None:
        """Drop the text encoders from memory; sampling from embeddings goes on working.

        Encoders that are trained stay.
        """
