"""Base of flow-matching models whose denoiser is a transformer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loba_tui.core.associate.containers.adapter_groups import (
    Marks,
    grouped_layers,
    layers_named,
)
from loba_tui.core.associate.containers.pipeline_container import PipelineContainer
from loba_tui.core.associate.containers.pixels import latent_side
from loba_tui.core.associate.containers.text_outputs import TextOutput
from loba_tui.core.associate.embeds import Framing, PromptEmbeds
from loba_tui.core.errors import RecipeError

NUM_TRAIN_TIMESTEPS = 1000


class TransformerContainer(PipelineContainer):
    """A `ModelContainer` but for what a family's transformer takes and gives.

    Attributes:
        group_marks: Which layers can take an adapter, and of which group they are.
        prompt_layers: Names of the layers that read the prompt's states.
        unread: Layers of the last block, by the ends of their names, whose outputs go nowhere.
        patch: Latent pixels a side that are one token.
        first_layer: Name of a base layer whose weight tells the dtype.
        drawn_resolution: Pixels a side of what the pipeline draws when it is not told a size.
    """

    group_marks: Marks
    prompt_layers: tuple[str, ...]
    unread: tuple[str, ...] = ()
    patch: int = 2
    first_layer: str
    drawn_resolution: int = 1024

    @abstractmethod
    def _velocity(
        self, transformer: nn.Module, latents: Tensor, timesteps: Tensor, embeds: PromptEmbeds
    ) -> Tensor:
        """Return ε − x₀, (B, C, H, W).

        Args:
            latents: (B, C, H, W), in the transformer's dtype.
            timesteps: (B,) from 0 (image) to 1,000 (noise), float32. A family computes from them
                what its pipeline does, in the same order: the transformer embeds it, and a last bit
                of it is seen in the fifth digit of the prediction.
            embeds: B rows.
        """

    @abstractmethod
    def pipeline_inputs(
        self, embeds: PromptEmbeds, negative: PromptEmbeds, guidance_scale: float
    ) -> dict[str, Any]:
        """Return the conditions as keyword arguments of the pipeline's call."""

    @property
    def denoiser(self) -> nn.Module:
        """The transformer."""
        return self.pipeline.transformer

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the transformer's base weights, whatever an adapter on it is held in."""
        layer = self.pipeline.transformer.get_submodule(self.first_layer)
        return getattr(layer, "base_layer", layer).weight.dtype

    @property
    def prediction_type(self) -> str:
        """Always "flow"."""
        return "flow"

    @property
    def resolution(self) -> int:
        """The side of the square images that the pipeline draws by itself."""
        return self._told_resolution or self.drawn_resolution

    @property
    def pixel_multiple(self) -> int:
        """Pixels of a token's side."""
        return int(self.pipeline.vae_scale_factor * self.patch)

    @property
    def unconditional_prompt(self) -> str | None:
        """The empty prompt."""
        return ""

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        """Return (C, H, W) of one latent; None takes the model's own resolution in pixels."""
        side = latent_side(self, resolution)
        return (self._latent_channels, side, side)

    @property
    def _latent_channels(self) -> int:
        return int(self.pipeline.transformer.config.in_channels)

    def _encoded_parts(self, prompts: Sequence[str]) -> list[PromptEmbeds]:
        if not self.reading.is_plain:
            raise RecipeError(
                "base_model.long_prompts and prompt_weights: CLIP's encoders alone are read so, and"
                f" this {self.family} model has another",
                "Leave both out; its prompts may be long.",
            )
        return super()._encoded_parts(prompts)

    def text_outputs(self) -> Sequence[TextOutput]:
        """Return nothing: where constants can be added to a language model is not known."""
        return ()

    def text_projections(self) -> dict[str, nn.Linear]:
        """Return the layers that read the prompt's states, by module name."""
        return layers_named(self.denoiser, self.prompt_layers)

    def projected_states(self, states: Tensor) -> Tensor:
        """Return the states as they are."""
        return states

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        embeds: PromptEmbeds,
        *,
        framing: Framing | None = None,
        denoiser: nn.Module | None = None,
    ) -> Tensor:
        """Return dx/dσ = ε − x₀, as `Prediction.predict` says."""
        embeds = embeds.to(latents.device, self.dtype)
        if len(embeds) == 1:
            embeds = embeds.expand(len(latents))
        timesteps = timesteps.to(latents.device).float().expand(len(latents))
        transformer = self.pipeline.transformer if denoiser is None else denoiser
        velocity = self._velocity(transformer, latents.to(self.dtype), timesteps, embeds)
        return velocity.to(latents.dtype)

    def lay_out_steps(self, scheduler: Any, num_steps: int, latent_shape: Sequence[int]) -> None:
        """Set a scheduler's timesteps as the pipeline's own call does."""
        mu = self._shift(scheduler.config, self._num_tokens(latent_shape), num_steps)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=mu)

    def _shift(self, config: Any, num_tokens: int, num_steps: int) -> float:
        """Return the logarithm of the noise levels' shift in a call of so many steps."""
        return dynamic_shift(config, num_tokens)

    def _num_tokens(self, latent_shape: Sequence[int]) -> int:
        _, height, width = latent_shape
        return (height // self.patch) * (width // self.patch)

    def adapter_targets(self) -> dict[str, list[str]]:
        """Return exact module names by group, in the order that data passes them.

        A layer whose output nothing reads is of no group: it would never learn.
        """
        groups = grouped_layers(self.pipeline.transformer, self.group_marks)
        if not self.unread:
            return groups
        last = f"transformer_blocks.{len(self.pipeline.transformer.transformer_blocks) - 1}."
        return {
            group: [n for n in names if not (n.startswith(last) and n.endswith(self.unread))]
            for group, names in groups.items()
        }


def dynamic_shift(config: Any, num_tokens: int) -> float:
    """Return the logarithm of the noise levels' shift for images of so many tokens.

    A line through two points that the scheduler's configuration states (Esser et al. 2024,
    https://arxiv.org/abs/2403.03206, section 5.3.2).
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (most - base) / (high - low)
    return float(num_tokens * slope + (base - slope * low))
