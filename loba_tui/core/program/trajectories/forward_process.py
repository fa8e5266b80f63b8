"""The forward process that fine-tuning on images needs: noise, timesteps, targets and weights.

For ε-, v- and x₀-prediction; which of them is the model's own affair. Zero-terminal-SNR schedules
(Lin et al. 2023, https://arxiv.org/abs/2305.08891) come with `scheduler.noise`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from loba_tui.core.errors import RecipeError
from loba_tui.core.program import randomness
from loba_tui.core.program.trajectories.noise_schedulers import is_flow_matching

NoiseChange = Callable[[Tensor, Tensor, Callable[..., Tensor]], tuple[Tensor, Tensor]]
"""Takes the noise that is applied, the noise that is wanted, and a source of normal noise."""
Weighting = Callable[[Tensor], Tensor]
"""From a signal-to-noise ratio (B,) to the weight (B,) of the squared error in x₀."""
TimestepDensity = Callable[[Tensor, float], Tensor]

_PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Diffusion:
    """Noises latents as the model was trained with, each draw keyed by seed, step and row."""

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        seed: int,
        density: TimestepDensity,
        changes: Sequence[NoiseChange] = (),
        weighting: Weighting | None = None,
    ) -> None:
        """Prepare the process.

        Args:
            config: Of the recipe's noise scheduler, which has it from the model.
            seed: The run's.
            density: Which timesteps to prefer.
            changes: To plain noise, one after another.
            weighting: Which timesteps count how much; None counts all alike.

        Raises:
            RecipeError: This kind of model is not trained this way.
        """
        if is_flow_matching(config):
            raise RecipeError(
                "method.name: this method trains diffusion models, and this one is a"
                " flow-matching model"
            )
        self._scheduler = DDPMScheduler.from_config(config, clip_sample=False)
        self.prediction_type = str(self._scheduler.config.prediction_type)
        if self.prediction_type not in _PREDICTIONS:
            raise RecipeError(f"the model predicts {self.prediction_type}, which is not known")
        ends_in_noise = float(self._scheduler.alphas_cumprod[-1]) < 1e-6
        if ends_in_noise and self.prediction_type == "epsilon":
            raise RecipeError(
                "scheduler.noise: a schedule that ends in pure noise (rescale_betas_zero_snr)"
                " leaves an ε-predicting model nothing to learn there",
                "Take it with a model that predicts v or x₀.",
            )
        self._seed, self._density = seed, density
        self._changes, self._weighting = changes, weighting

    @property
    def num_timesteps(self) -> int:
        """The number of train timesteps."""
        return int(self._scheduler.config.num_train_timesteps)

    def timesteps(self, index: int, progress: float, rows: Sequence[int]) -> Tensor:
        """Draw one timestep (B,) for each row of micro-step `index`.

        Raises:
            RecipeError: The density is zero everywhere.
        """
        grid = torch.linspace(0, 1, self.num_timesteps, dtype=torch.float64)
        weights = torch.as_tensor(self._density(grid, progress)).double()
        if not float(weights.sum()) > 0:
            raise RecipeError(
                f"scheduler.timestep: its density is 0 at all {len(grid)} timesteps", "Widen it."
            )
        drawn = [
            randomness.weighted_choice(weights, 1, self._seed, "timestep", index, row)[0]
            for row in rows
        ]
        return torch.tensor(drawn)

    def normalised(self, timesteps: Tensor) -> Tensor:
        """Return timesteps as losses and densities have them: 0 is clean, and 1 is noise."""
        return timesteps / (self.num_timesteps - 1)

    def noise(self, like: Tensor, index: int, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Draw noise for micro-step `index`.

        Args:
            like: (B, C, H, W), for shape and device.
            index: Of the micro-step.
            rows: Place of each row in the global batch.

        Returns:
            The noise to apply and the noise to ask for, (B, C, H, W) each.
        """

        def normal(use: str, shape: Sequence[int]) -> Tensor:
            drawn = [randomness.normal(shape, self._seed, use, index, row) for row in rows]
            return torch.stack(drawn).to(like.device)

        applied = wanted = normal("noise", like.shape[1:])
        for place, change in enumerate(self._changes):
            num_draws = 0

            def more(*shape: int, place: int = place) -> Tensor:
                nonlocal num_draws
                num_draws += 1
                return normal(f"noise {place} {num_draws}", shape)

            applied, wanted = change(applied, wanted, more)
        return applied, wanted

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t = √ᾱ x₀ + √(1 − ᾱ) ε, (B, C, H, W)."""
        noised: Tensor = self._scheduler.add_noise(latents, noise, timesteps)
        return noised

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the model should have said: ε, v = √ᾱ ε − √(1 − ᾱ) x₀, or x₀."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        velocity: Tensor = self._scheduler.get_velocity(latents, noise, timesteps)
        return velocity

    def snr(self, timesteps: Tensor) -> Tensor:
        """Return ᾱ / (1 − ᾱ), (B,)."""
        kept = self._scheduler.alphas_cumprod.double()[timesteps.cpu()]
        return kept / (1 - kept)

    def weights(self, timesteps: Tensor) -> Tensor:
        """Return the weight (B,) of each row's squared error in what the model predicts.

        A weighting is stated for x₀, so that it means the same for every kind of model: an error in
        x₀ is √SNR times smaller than in ε, and √(SNR + 1) times than in v.
        """
        if self._weighting is None:
            return torch.ones(len(timesteps))
        snr = self.snr(timesteps)
        weights = self._weighting(snr)
        if self.prediction_type == "epsilon":
            weights = weights / snr
        elif self.prediction_type == "v_prediction":
            weights = weights / (snr + 1)
        return weights.float()
