"""Image sliders: pictures of the same scenes at several strengths teach the adapter its scale.

The visual sliders of Concept Sliders, Gandikota et al. 2023, https://arxiv.org/abs/2311.12092: both
images of a pair get the same noise and timestep, so that they differ in nothing else. Here there
may be any number of strengths, and images keep their own sizes.
"""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat

from loba_tui.core.associate.device_copies import sent
from loba_tui.core.program.method import Method, MethodParts, StepOutput
from loba_tui.core.program.objectives.images import ImageMethod, weighted_mean

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
        labels = diffusion.timesteps(index, progress, batch.rows).repeat(2)
        timesteps = sent(labels, clean.device)
        noised = diffusion.add_noise(clean, applied, labels)
        prompts = parts.condition(batch.prompts * 2)
        weights = batch.weights.repeat(2) * sent(diffusion.weights(labels), clean.device)
        t = diffusion.normalised(timesteps)
        masks = None if batch.masks is None else batch.masks.repeat(2, 1, 1, 1)
        framing = None if batch.framing is None else batch.framing.repeat(2)

        seen = (noised, timesteps, prompts, framing)
        base = None
        if self._holds_outside(masks) or self._direction_weight:
            base = parts.predict_base(*seen)
        strengths = torch.tensor([*batch.scales[0], *batch.scales[1]])
        predicted = parts.predict_student(strengths, *seen)
        target = diffusion.target(clean, wanted, labels)
        output = self._output("pair", predicted, target, base, t=t, weights=weights, masks=masks)
        if base is None or not self._direction_weight:
            return output
        low, high = predicted.chunk(2)
        base_low, base_high = base.chunk(2)
        half = len(low)
        losses = parts.loss((low + high) / 2, (base_low + base_high) / 2, t[:half])
        common_loss = weighted_mean(losses, weights[:half])
        return StepOutput(
            loss=output.loss + self._direction_weight * common_loss,
            metrics={**output.metrics, "common_loss": common_loss.detach()},
        )
