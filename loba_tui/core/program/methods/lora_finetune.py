"""Plain fine-tuning on captioned images: the adapter learns to name the noise on them.

Denoising score matching as in DDPM (Ho et al. 2020, https://arxiv.org/abs/2006.11239), for ε-, v-
and x₀-predicting models. Where images have masks, only what is white is learned, and what is black
is held where the base model has it.
"""

from __future__ import annotations

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
        timesteps = diffusion.timesteps(index, progress, batch.rows).to(latents.device)
        noised = diffusion.add_noise(latents, applied, timesteps)
        prompts = parts.condition(batch.prompts)
        weights = batch.weights * diffusion.weights(timesteps).to(latents.device)
        t = diffusion.normalised(timesteps)

        kept = None
        if batch.masks is not None and parts.keep_outside:
            kept = self._base(noised, timesteps, prompts, batch.framing)
        student = self._student(1.0, noised, timesteps, prompts, batch.framing)
        losses = parts.loss_at(student, diffusion.target(latents, wanted, timesteps), t)
        if batch.masks is not None:
            losses = batch.masks * losses
        image_loss = (losses.mean(dim=(1, 2, 3)) * weights).mean()
        metrics = {"image_loss": image_loss.detach()}
        loss = image_loss
        if kept is not None:
            assert batch.masks is not None
            off = (1 - batch.masks) * parts.loss_at(student, kept, t)
            outside_loss = (off.mean(dim=(1, 2, 3)) * weights).mean()
            metrics["outside_loss"] = outside_loss.detach()
            loss = loss + parts.keep_outside * outside_loss
        return StepOutput(loss=loss, metrics=metrics)
