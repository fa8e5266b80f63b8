"""Plain fine-tuning on captioned images: the adapter learns to name the noise on them.

Denoising score matching as in DDPM (Ho et al. 2020, https://arxiv.org/abs/2006.11239), for ε-, v-
and x₀-predicting models. Where images have masks, only what is white is learned, and what is black
is held where the base model has it.
"""

from __future__ import annotations

from loba_tui.core.associate.device_copies import sent
from loba_tui.core.program.method import Method, MethodParts, StepOutput
from loba_tui.core.program.objectives.images import ImageMethod

DATA = "images"
USES = ("noise", "weighting")


def get_method(parts: MethodParts) -> Method:
    """Return plain fine-tuning.

    Args:
        parts: What the method works with.
    """
    return LoraFinetune(parts)


class LoraFinetune(ImageMethod):
    """Trains ‖M ∘ (f₁(x_t, c) − y)‖² + k ‖(1 − M) ∘ (f₁(x_t, c) − sg f₀(x_t, c))‖².

    f is what the model predicts, y what it should (ε, v or x₀), M the mask, and k
    `data.mask.keep_outside`. Without masks M is 1.
    """

    def step(self, index: int, progress: float) -> StepOutput:
        """Return the loss of one micro-step."""
        parts, diffusion = self._parts, self._diffusion
        batch = self._images.batch(index)
        latents = batch.latents[0]
        applied, wanted = diffusion.noise(latents, index, batch.rows)
        labels = diffusion.timesteps(index, progress, batch.rows)
        timesteps = sent(labels, latents.device)
        noised = diffusion.add_noise(latents, applied, labels)
        prompts = parts.condition(batch.prompts)
        weights = batch.weights * sent(diffusion.weights(labels), latents.device)
        t = diffusion.normalised(timesteps)

        seen = (noised, timesteps, prompts, batch.framing)
        base = parts.predict_base(*seen) if self._holds_outside(batch.masks) else None
        predicted = parts.predict_student(1.0, *seen)
        target = diffusion.target(latents, wanted, labels)
        return self._output(
            "image", predicted, target, base, t=t, weights=weights, masks=batch.masks
        )
