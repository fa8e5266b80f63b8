"""Noisy latents that an adapter was not trained on: of rollouts of the base with a seed of its own.

What adapters do to the denoiser's predictions is measured on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.program import randomness
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.trajectories.predictions import ForwardCounter

ROLLOUT_GUIDANCE = 3.0
BATCH_SIZE = 16
"""UNet rows that are predicted at once."""


@dataclass(frozen=True)
class HeldOut:
    """Noisy latents of base rollouts, as the denoiser takes them.

    Attributes:
        inputs: (R, C, H, W).
        timesteps: (R,) the label of each row's noise level.
        rows: Which prompt each row was rolled out with, length R.
        num_unet_rows: What the rollout cost.
    """

    inputs: Tensor
    timesteps: Tensor
    rows: list[int]
    num_unet_rows: int

    def predict(
        self, container: ModelContainer, embeds: PromptEmbeds, *, batch_size: int = BATCH_SIZE
    ) -> Tensor:
        """Return predictions (R, C·H·W) in float64 for one row of embeddings each."""
        parts = []
        for start in range(0, len(embeds), batch_size):
            rows = slice(start, start + batch_size)
            predicted = container.predict(self.inputs[rows], self.timesteps[rows], embeds[rows])
            parts.append(predicted.double().cpu())
        return torch.cat(parts).flatten(1)


@torch.no_grad()
def roll_out(
    container: ModelContainer,
    scale: RowScale,
    prompts: PromptEmbeds,
    *,
    make_scheduler: Callable[[], Any],
    seed: int,
    num_steps: int = 8,
    keep: Sequence[int] = (1, 3, 5, 7),
    resolution: int | None = None,
) -> HeldOut:
    """Roll prompts out with the base model, and keep the latents at some of the steps.

    Args:
        container: The model.
        scale: Of the adapter, which is off here.
        prompts: One row a prompt; each is rolled out once.
        make_scheduler: Returns a fresh diffusers scheduler, one that adds no noise (DDIM, Euler).
        seed: Of the initial noise, used with a key of its own.
        num_steps: Length of the sampling grid.
        keep: Positions on that grid; nothing is computed past the last one.
        resolution: Pixels; None takes the model's own.
    """
    scheduler = make_scheduler()
    latent_shape = container.latent_shape(resolution)
    container.lay_out_steps(scheduler, num_steps, latent_shape)
    num_prompts = len(prompts)
    shape = (num_prompts, *latent_shape)
    latents = randomness.normal(shape, seed, "efficacy").to(container.device)
    latents = latents * float(scheduler.init_noise_sigma)
    inputs, labels, counter = [], [], ForwardCounter()
    with scale.base():
        for position, timestep in enumerate(scheduler.timesteps[: max(keep) + 1]):
            model_input = scheduler.scale_model_input(latents, timestep)
            label = timestep.to(latents.device).repeat(num_prompts)
            if position in keep:
                inputs.append(model_input)
                labels.append(label)
            if position == max(keep):
                break
            noise_pred = counter.predict_guided(
                container,
                model_input,
                label,
                prompts,
                empty=container.empty_embeds(),
                guidance_scale=ROLLOUT_GUIDANCE,
            )
            latents = scheduler.step(noise_pred, timestep, latents, return_dict=False)[0]
    return HeldOut(
        inputs=torch.cat(inputs),
        timesteps=torch.cat(labels),
        rows=list(range(num_prompts)) * len(inputs),
        num_unet_rows=counter.rows,
    )
