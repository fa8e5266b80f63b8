"""Draws of methods that train on images, and a loss that masks confine."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from loba_tui.core.program.method import MethodParts, StepOutput


class ImageMethod:
    """A method without state: its every draw is a function of the seed and the step."""

    def __init__(self, parts: MethodParts) -> None:
        self._parts = parts
        self._images = parts.images()
        self._diffusion = parts.diffusion()

    def state(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take nothing back."""

    def _holds_outside(self, masks: Tensor | None) -> bool:
        """Say whether what masks leave out is held where the base model has it."""
        return masks is not None and self._parts.keep_outside > 0

    def _output(
        self,
        name: str,
        predicted: Tensor,
        target: Tensor,
        base: Tensor | None,
        *,
        t: Tensor,
        weights: Tensor,
        masks: Tensor | None,
    ) -> StepOutput:
        """Return ‖M ∘ (f − y)‖² + k ‖(1 − M) ∘ (f − f₀)‖²; without masks, M is 1.

        Args:
            name: Of the first term's figure, `<name>_loss`.
            predicted: f (B, C, H, W), with gradients.
            target: y, of the same shape.
            base: f₀, which is held outside of the masks; None leaves the second term out. Its
                weight k is the recipe's `data.mask.keep_outside`.
            t: (B,) timesteps from 0, clean, to 1, noise.
            weights: (B,) of the rows.
            masks: M (B, 1, H, W).
        """
        losses = self._parts.loss(predicted, target, t)
        if masks is not None:
            losses = masks * losses
        loss = weighted_mean(losses, weights)
        metrics = {f"{name}_loss": loss.detach()}
        if base is not None and self._holds_outside(masks):
            assert masks is not None
            outside = weighted_mean((1 - masks) * self._parts.loss(predicted, base, t), weights)
            metrics["outside_loss"] = outside.detach()
            loss = loss + self._parts.keep_outside * outside
        return StepOutput(loss=loss, metrics=metrics)


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of losses (B, C, H, W) with weights (B,) for the rows."""
    return (losses.mean(dim=(1, 2, 3)) * weights).mean()
