"""Predictions of the model, guided or not, with every UNet row counted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import Framing, PromptEmbeds


def guided(empty: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    """Return ε(∅) + w (ε(c) − ε(∅)), classifier-free guidance of scale w.

    Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, equation 6, where w is written 1 + w.
    """
    return empty + guidance_scale * (conditional - empty)


@dataclass
class ForwardCounter:
    """UNet rows that were really computed; a row with its backward counts as two."""

    rows: int = 0

    def predict(
        self,
        container: ModelContainer,
        inputs: Tensor,
        timesteps: Tensor,
        embeds: PromptEmbeds,
        *,
        framing: Framing | None = None,
        student: nn.Module | None = None,
    ) -> Tensor:
        """Return what `ModelContainer.predict` does.

        A `student` is the denoiser to call where a backward pass follows.
        """
        self.rows += len(inputs) if student is None else 2 * len(inputs)
        return container.predict(inputs, timesteps, embeds, framing=framing, denoiser=student)

    def predict_guided(
        self,
        container: ModelContainer,
        inputs: Tensor,
        timesteps: Tensor,
        prompts: PromptEmbeds,
        *,
        empty: PromptEmbeds,
        guidance_scale: float,
    ) -> Tensor:
        """Return guided predictions of `inputs`, both halves of the guidance from one call."""
        empty_pred, conditional = self.predict(
            container,
            inputs.repeat(2, 1, 1, 1),
            timesteps.repeat(2),
            PromptEmbeds.cat([empty.select([0] * len(inputs)), prompts]),
        ).chunk(2)
        return guided(empty_pred, conditional, guidance_scale)
