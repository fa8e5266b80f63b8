"""Steps between images and noise without any of their own, for attacks that need the trajectory.

Denoising Diffusion Implicit Models, Song et al. 2020, https://arxiv.org/abs/2010.02502. With
x_t = a_t x₀ + b_t ε and s the next lower noise level (equations 12 and 16):

    x_s = a_s x₀ + √(b_s² − σ²) ε + σ z,    σ = η (b_s / b_t) √(1 − a_t² / a_s²)

where η is 0 for DDIM and 1 for DDPM. Read backwards at η = 0 it turns an image into noise. With
a = 1 − σ and b = σ the same are the Euler steps of flow matching.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.schedules import is_flow_matching
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program import randomness
from loba_tui.core.program.evaluation.attacks.subject import Subject
from loba_tui.core.program.trajectories.forward_process import NoiseLevels
from loba_tui.core.program.trajectories.noise_schedulers import noiseless_sampler
from loba_tui.core.program.trajectories.predictions import guided

NoiseOf = Callable[[int, int], Tensor]
"""Returns the noise z of a step and a row."""


@dataclass(frozen=True)
class Ddim:
    """The sampling grid of a model's own noise schedule.

    Attributes:
        timesteps: From the noisiest to the cleanest.
        a: Share of the image at each timestep, and 1 for the image at the end.
        b: Share of the noise, and 0 at the end.
    """

    subject: Subject
    timesteps: Tensor
    a: Sequence[float]
    b: Sequence[float]

    @classmethod
    def of(cls, subject: Subject) -> Ddim:
        """Return the grid of the recipe's number of sampling steps."""
        config = subject.container.scheduler_config
        scheduler = SHIPPED.load("noise", noiseless_sampler(config))(config)
        shape = subject.container.latent_shape(subject.recipe.train.resolution)
        subject.container.lay_out_steps(scheduler, subject.recipe.sample.steps, shape)
        if is_flow_matching(config):
            b = (scheduler.timesteps.double() / scheduler.config.num_train_timesteps).tolist()
            a = [1 - level for level in b]
        else:
            levels = NoiseLevels(scheduler)
            one = torch.ones((), dtype=torch.float64)
            pairs = [levels.coefficients(levels.at(t.reshape(1)), one) for t in scheduler.timesteps]
            a, b = ([float(pair[n]) for pair in pairs] for n in (0, 1))
        return cls(subject, scheduler.timesteps, [*a, 1.0], [*b, 0.0])

    def start(self, seeds: Sequence[int]) -> Tensor:
        """Return pure noise (N, C, H, W), a seed each."""
        subject = self.subject
        shape = subject.container.latent_shape(subject.recipe.train.resolution)
        rows = [randomness.normal(shape, seed, "attack start") for seed in seeds]
        return torch.stack(rows).to(subject.container.device)

    def denoise(
        self,
        latents: Tensor,
        prompts: PromptEmbeds,
        strength: float,
        *,
        first: int = 0,
        eta: float = 0.0,
        noise_of: NoiseOf | None = None,
    ) -> Tensor:
        """Return the clean latents that noisy ones become, guided as the recipe samples.

        Args:
            latents: (N, C, H, W) at timestep number `first`.
            prompts: N rows.
            strength: Of the adapter.
            eta: η; past 1, noise is added that DDPM would not add.
        """
        for step in range(first, len(self.timesteps)):
            clean, noise = self._split(latents, step, prompts, strength)
            a, b, a_next, b_next = self.a[step], self.b[step], self.a[step + 1], self.b[step + 1]
            sigma = b_next / b * max(0.0, 1 - (a / a_next) ** 2) ** 0.5
            along = max(0.0, b_next**2 - (min(eta, 1.0) * sigma) ** 2) ** 0.5
            latents = a_next * clean + along * noise
            if eta and sigma and noise_of is not None:
                drawn = torch.stack([noise_of(step, row) for row in range(len(latents))])
                latents = latents + eta * sigma * drawn.to(latents)
        return latents

    def invert(self, latents: Tensor, prompts: PromptEmbeds, strength: float, last: int) -> Tensor:
        """Return the noisy latents at timestep number `last` that clean ones come from.

        Without guidance: what guidance adds cannot be taken back step by step.
        """
        for step in range(len(self.timesteps) - 1, last - 1, -1):
            # The level that the latents are at; the model is asked at the nearest it knows.
            asked = min(step + 1, len(self.timesteps) - 1)
            at = step + 1
            clean, noise = self._split(latents, asked, prompts, strength, at=at, is_guided=False)
            latents = self.a[step] * clean + self.b[step] * noise
        return latents

    def images(self, latents: Tensor) -> np.ndarray:
        """Return (N, H, W, 3) images in [0, 1]."""
        size = self.subject.recipe.sample.batch_size
        decoded = [self.subject.container.decode(part) for part in latents.split(size)]
        return torch.cat(decoded).permute(0, 2, 3, 1).cpu().numpy().astype(np.float32)

    def _split(
        self,
        latents: Tensor,
        step: int,
        prompts: PromptEmbeds,
        strength: float,
        *,
        at: int | None = None,
        is_guided: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return image and noise that the model sees in latents at level `at`."""
        predicted = self._predict(latents, step, prompts, strength, is_guided=is_guided)
        level = step if at is None else at
        a, b = self.a[level], self.b[level]
        kind = self.subject.container.prediction_type
        if kind == "v_prediction":
            return a * latents - b * predicted, a * predicted + b * latents
        if kind == "flow":
            return latents - b * predicted, latents + a * predicted
        if kind == "sample":
            return predicted, (latents - a * predicted) / b if b else torch.zeros_like(latents)
        return (latents - b * predicted) / a, predicted

    @torch.no_grad()
    def _predict(
        self,
        latents: Tensor,
        step: int,
        prompts: PromptEmbeds,
        strength: float,
        *,
        is_guided: bool,
    ) -> Tensor:
        subject, parts = self.subject, []
        scale = subject.recipe.sample.guidance_scale if is_guided else 1.0
        negative = subject.negative(strength)
        size = subject.recipe.sample.batch_size
        with subject.scale(strength):
            for start in range(0, len(latents), size):
                rows = slice(start, start + size)
                inputs, own = latents[rows], prompts[rows]
                if scale > 1:
                    away = negative.select([0] * len(inputs))
                    inputs, own = inputs.repeat(2, 1, 1, 1), PromptEmbeds.cat([away, own])
                labels = self.timesteps[step].to(inputs.device).repeat(len(inputs))
                found = subject.container.predict(inputs, labels, own)
                if scale > 1:
                    empty, conditional = found.chunk(2)
                    found = guided(empty, conditional, scale)
                parts.append(found)
        return torch.cat(parts)
