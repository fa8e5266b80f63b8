"""ADDifT: what changes from one image to another, learned in some tens of steps.

Alternating Direct Difference Training (hako-mikan, sd-webui-traintrain,
https://github.com/hako-mikan/sd-webui-traintrain). No noise is to be named: the model with the
adapter, given one image, is to say what the model without it says of the other, and the other way
round. Timesteps decide what is learned: 500 to 1000 for what happens on the image, 200 to 400 for
its style; `scheduler.timestep` chooses them.
"""

from __future__ import annotations

import torch
from pydantic import PositiveFloat

from loba_tui.core.associate.device_copies import sent
from loba_tui.core.program.method import Method, MethodParts, StepOutput
from loba_tui.core.program.objectives.images import ImageMethod

DATA = "pairs"
USES = ("noise", "weighting")


def get_method(parts: MethodParts, *, strength: PositiveFloat = 0.25) -> Method:
    """Return ADDifT.

    Args:
        parts: What the method works with; a row of its batches is a pair.
        strength: Share of its source's `scale` that the adapter is trained at. Small, so that the
            full scale goes beyond what was shown, as it has to where a few steps are to do.
    """
    return Addift(parts, strength)


class Addift(ImageMethod):
    """Trains ‖ε_b(x_t^B, c) − sg ε₀(x_t^A, c)‖² and ‖ε_a(x_t^A, c) − sg ε₀(x_t^B, c)‖² by turns.

    A and B are images of strengths a < b, with the same noise and timestep. ε_s is what the model
    predicts with the adapter at `strength`·s. Models that predict something else are to find the
    noise ε₀ of the one in the other. Where images have masks, only what is inside counts,
    and outside the model is held at what it says of the own image.
    """

    def __init__(self, parts: MethodParts, strength: float) -> None:
        super().__init__(parts)
        self._strength = strength

    def step(self, index: int, progress: float) -> StepOutput:
        """Return the loss of one micro-step."""
        parts, diffusion = self._parts, self._diffusion
        batch = self._images.batch(index)
        applied, _ = diffusion.noise(batch.latents[0], index, batch.rows)
        labels = diffusion.timesteps(index, progress, batch.rows)
        timesteps = sent(labels, applied.device)
        low, high = (diffusion.add_noise(x, applied, labels) for x in batch.latents)
        prompts = parts.condition(batch.prompts)
        weights = batch.weights * sent(diffusion.weights(labels), applied.device)
        t = diffusion.normalised(timesteps)

        # Rows take turns, and each row from step to step.
        upward = torch.tensor([(row + index) % 2 == 0 for row in batch.rows])
        is_up = sent(upward, applied.device).view(-1, 1, 1, 1)
        mine, other = torch.where(is_up, high, low), torch.where(is_up, low, high)
        target = parts.predict_base(other, timesteps, prompts, batch.framing)
        change = torch.where(is_up, 1.0, -1.0) * (batch.latents[1] - batch.latents[0])
        target = diffusion.with_image_moved(target, change.to(target), labels)
        own = None
        if self._holds_outside(batch.masks):
            own = parts.predict_base(mine, timesteps, prompts, batch.framing)
        scales = torch.where(upward, torch.tensor(batch.scales[1]), torch.tensor(batch.scales[0]))
        strengths = self._strength * scales
        predicted = parts.predict_student(strengths, mine, timesteps, prompts, batch.framing)
        return self._output(
            "difference", predicted, target, own, t=t, weights=weights, masks=batch.masks
        )
