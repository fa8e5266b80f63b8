"""What methods that train on images have in common: no state, and two ways to predict."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from loba_tui.core.associate.embeds import Framing, PromptEmbeds
from loba_tui.core.program.method import MethodParts


class ImageMethod:
    """A method whose every draw is a function of the seed and the step."""

    def __init__(self, parts: MethodParts) -> None:
        self._parts = parts
        self._images = parts.images()
        self._diffusion = parts.diffusion()

    def state(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take nothing back."""

    def _student(
        self,
        strengths: float | Tensor,
        noised: Tensor,
        timesteps: Tensor,
        prompts: PromptEmbeds,
        framing: Framing | None,
    ) -> Tensor:
        """Return what the model predicts with the adapter, in float32 and with gradients.

        The strengths (B,) stay set: gradient checkpointing runs this forward again in backward.
        """
        parts = self._parts
        parts.scale.set(strengths)
        predicted = parts.container.predict(
            noised, timesteps, prompts, framing=framing, denoiser=parts.student
        )
        parts.counter.rows += 2 * len(noised)
        return predicted.float()

    @torch.no_grad()
    def _base(
        self, noised: Tensor, timesteps: Tensor, prompts: PromptEmbeds, framing: Framing | None
    ) -> Tensor:
        """Return what the model predicts without the adapter, in float32."""
        parts = self._parts
        with parts.scale.base():
            predicted = parts.container.predict(noised, timesteps, prompts, framing=framing)
        parts.counter.rows += len(noised)
        return predicted.float()
