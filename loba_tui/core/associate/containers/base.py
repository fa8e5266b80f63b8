"""The protocols by which the trainer speaks to a model of any family: all that families differ in.

A container joins three: how it reads prompts, what it predicts, and how it codes images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
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


class Prompts(Protocol):
    """How a model reads prompts.

    Attributes:
        reading: Chunks and weights; as every pipeline reads until it is set.
        text_encoders: The pipeline's components that read prompts.
        trains_text_encoders: Whether they carry weights that exist nowhere else and must stay.
    """

    reading: PromptReading
    text_encoders: tuple[str, ...]
    trains_text_encoders: bool

    @property
    def unconditional_prompt(self) -> str | None:
        """The prompt that stands where none is given; None where that is zeros."""

    def encode_prompts(self, prompts: Sequence[str], *, with_grad: bool = False) -> PromptEmbeds:
        """Return one row a prompt, as the pipeline conditions its positive half.

        Args:
            with_grad: Record gradients, for encoders that are trained.
        """

    def encode_alone(self, prompts: Sequence[str]) -> list[PromptEmbeds]:
        """Return one row a prompt, to the bit as if no other were encoded; without gradients."""

    def text_outputs(self) -> Sequence[TextOutput]:
        """Return where each text encoder's states can be moved, in the order of their columns.

        Empty where that is not known of a family's encoders.
        """

    def text_projections(self) -> dict[str, nn.Linear]:
        """Return the denoiser's layers that read the prompt's states, by module name."""

    def projected_states(self, states: Tensor) -> Tensor:
        """Return what those layers read of a prompt's states (T, D): the states, or their norm."""

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each prompt, start and end included, padding not.

        Token i of a prompt is position i of its hidden states. It works without the encoders too.
        """

    def word_tokens(self, word: str, encoder: str) -> list[int]:
        """Return the token ids of a word, or of several, as they are inside of a prompt.

        Args:
            encoder: The text encoder that reads them; T5 and CLIP have tokens of their own.
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

    def release_text_encoders(self) -> None:
        """Drop the text encoders from memory; sampling from embeddings goes on working.

        Encoders that are trained stay.
        """


class Prediction(Protocol):
    """The prediction of a model's denoiser, and how its sampler is called."""

    @property
    def denoiser(self) -> nn.Module:
        """The network that is trained: a UNet or a transformer."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the denoiser's base weights are held in."""

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """The noise schedule the model was trained with, as diffusers writes it."""

    @property
    def prediction_type(self) -> str:
        """Target of the denoiser: "epsilon", "v_prediction", "sample" or "flow".

        With "flow" it is dx/dσ = ε − x₀ on the straight line x = (1 − σ) x₀ + σ ε (Flow Matching,
        https://arxiv.org/abs/2210.02747; Rectified Flow, https://arxiv.org/abs/2209.03003).
        """

    @property
    def resolution(self) -> int:
        """The side, in pixels, of the square images the model is made for."""

    @property
    def pixel_multiple(self) -> int:
        """Pixels that the sides of an image have to be multiples of."""

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        """Return (C, H, W) of one latent; None takes the model's own resolution in pixels."""

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        embeds: PromptEmbeds,
        *,
        framing: Framing | None = None,
        denoiser: nn.Module | None = None,
    ) -> Tensor:
        """Return what schedulers step by, as `prediction_type` says.

        Args:
            latents: (B, C, H, W), scaled as the denoiser takes them.
            timesteps: (B,) or a scalar for all rows, 0 (image) to 1,000 (noise).
            embeds: B rows, or one row for all.
            framing: Where the rows' images were cut from; None says that they are whole images of
                the size of `latents`. Models that are not told pass it over.
            denoiser: A wrapped denoiser (data-parallel, compiled) to be called instead.

        Returns:
            (B, C, H, W), in the dtype of `latents`.
        """

    def prompts_read_once(self) -> AbstractContextManager[None]:
        """Let the denoiser keep what it makes of the prompt inside a `with` block.

        For predictions without gradients, between which neither weights nor strengths change.
        """

    def lay_out_steps(self, scheduler: Any, num_steps: int, latent_shape: Sequence[int]) -> None:
        """Set a scheduler's timesteps as the pipeline's own call does.

        Args:
            latent_shape: (C, H, W); some families shift their noise levels by it.
        """

    def pipeline_inputs(
        self, embeds: PromptEmbeds, negative: PromptEmbeds, guidance_scale: float
    ) -> dict[str, Any]:
        """Return the conditions as keyword arguments of the pipeline's call.

        Args:
            negative: As many rows as `embeds`.
            guidance_scale: w of ε(∅) + w (ε(c) − ε(∅)), whatever the pipeline calls it.
        """

    def adapter_targets(self) -> dict[str, list[str]]:
        """Return exact names of the denoiser's modules that can take an adapter, by group.

        Groups: self_attention, cross_attention, feed_forward, projection, convolution,
        time_embedding, modulation; those that the family has.
        """


class Codec(Protocol):
    """How a model codes images as latents."""

    @property
    def decodes_in_float32(self) -> bool:
        """Whether the VAE, as it is held now, is brought to float32 while it is used."""

    def decode(self, latents: Tensor) -> Tensor:
        """Turn latents (B, C, h, w) into images (B, 3, H, W) in [0, 1]."""

    def decode_own(self, latents: Tensor) -> Tensor:
        """Turn the VAE's own latents, in the dtype it is held in, into images in [-1, 1].

        They are (B, C, h, w) too, but scaled as the VAE takes them and not as the denoiser does.
        """

    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) in [0, 1] into latents (B, C, h, w)."""

    def encode_moments(self, images: Tensor) -> LatentMoments:
        """Turn images (B, 3, H, W) in [0, 1] into the distributions of their latents."""

    def vae_held(self) -> AbstractContextManager[None]:
        """Hold the VAE ready for many calls inside a `with` block."""


class ModelContainer(Prompts, Prediction, Codec, Protocol):
    """A loaded pipeline, spoken to in the same words for every model family.

    Attributes:
        family: Short name of the architecture, such as "sdxl".
        pipeline: The diffusers pipeline that everything below operates on.
        revision: The commit of the hub that was loaded; None for local and built-in models.
        memory: Brings components that were unloaded or offloaded; None where nobody can.
        home: Where it computes although some of it may wait elsewhere; None: components tell.
        slices_vae: Whether the VAE takes one image of a batch after another.
        tiles_vae: Whether it takes one tile of an image after another.
    """

    family: str
    pipeline: DiffusionPipeline
    revision: str | None
    memory: ComponentMemory | None
    home: torch.device | None
    slices_vae: bool
    tiles_vae: bool

    @property
    def device(self) -> torch.device:
        """Where predictions are computed."""

    def require(self, *components: str) -> None:
        """Have components of the pipeline in memory and on the device before they are used.

        Raises:
            RuntimeError: One was released, and nobody can bring it back.
        """
