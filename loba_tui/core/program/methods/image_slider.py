"""Image sliders: pictures of the same scenes at several strengths teach the adapter its scale.

The visual sliders of Concept Sliders, Gandikota et al. 2023, https://arxiv.org/abs/2311.12092: both
images of a pair get the same noise and timestep, so that they differ in nothing else. Here there
may be any number of strengths, and images keep their own sizes.
"""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from loba_tui.core.program.method import Method, MethodParts, StepOutput
from loba_tui.core.program.objectives.images import ImageMethod

DATA = "pairs"
USES = ("noise", "weighting")


def get_method(parts: MethodParts, *, direction_weight: NonNegativeFloat = 0.0) -> Method:
    """Return the image slider.

    Args:
        parts: What the method works with; a row of its batches is a pair, and costs two.
        direction_weight: Weight of a second term, which holds the mean of both predictions where
            the base model has it: then only the difference within a pair is learned, and not what
            its images have in common.
    """
    return ImageSlider(parts, direction_weight)


class ImageSlider(ImageMethod):
    """Trains ‖f_a(x_t^a, c) − y_a‖² + ‖f_b(x_t^b, c) − y_b‖² for images of strengths a < b.

    f_s is what the model predicts with the adapter at strength s, y what it should. Where images
    have masks M, errors count inside only, and outside f_s is held where the base model has it.
    """

    def __init__(self, parts: MethodParts, direction_weight: float) -> None:
        super().__init__(parts)
        self._direction_weight = direction_weight

    def step(self, index: int, progress: float) -> StepOutput:
        """Return the loss of one micro-step."""
        parts, diffusion = self._parts, self._diffusion
        batch = self._images.batch(index)
        clean = torch.cat(batch.latents)
        applied, wanted = (
            torch.cat([noise, noise])
            for noise in diffusion.noise(batch.latents[0], index, batch.rows)
        )
        timesteps = diffusion.timesteps(index, progress, batch.rows).to(clean.device).repeat(2)
        noised = diffusion.add_noise(clean, applied, timesteps)
        prompts = parts.condition(batch.prompts * 2)
        weights = batch.weights.repeat(2) * diffusion.weights(timesteps).to(clean.device)
        t = diffusion.normalised(timesteps)
        masks = None if batch.masks is None else batch.masks.repeat(2, 1, 1, 1)
        framing = None if batch.framing is None else batch.framing.repeat(2)

        keeps_outside = masks is not None and parts.keep_outside > 0
        base = None
        if keeps_outside or self._direction_weight:
            base = self._base(noised, timesteps, prompts, framing)
        strengths = torch.tensor([*batch.scales[0], *batch.scales[1]])
        student = self._student(strengths, noised, timesteps, prompts, framing)

        def mean(losses: Tensor) -> Tensor:
            return (losses.mean(dim=(1, 2, 3)) * weights[: len(losses)]).mean()

        losses = parts.loss_at(student, diffusion.target(clean, wanted, timesteps), t)
        loss = pair_loss = mean(losses if masks is None else masks * losses)
        metrics = {"pair_loss": pair_loss.detach()}
        if base is not None and masks is not None and keeps_outside:
            outside_loss = mean((1 - masks) * parts.loss_at(student, base, t))
            metrics["outside_loss"] = outside_loss.detach()
            loss = loss + parts.keep_outside * outside_loss
        if base is not None and self._direction_weight:
            low, high = student.chunk(2)
            base_low, base_high = base.chunk(2)
            half = t[: len(low)]
            common_loss = mean(parts.loss_at((low + high) / 2, (base_low + base_high) / 2, half))
            metrics["common_loss"] = common_loss.detach()
            loss = loss + self._direction_weight * common_loss
        return StepOutput(loss=loss, metrics=metrics)
