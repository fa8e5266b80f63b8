"""The forward process q(x_t | x₀): noise on images, and what a model is to say of them.

Fine-tuning on images draws noise, timesteps, targets and weights for ε-, v- and x₀-prediction and
for flow matching; which of them is the model's own affair. Zero-terminal-SNR schedules (Lin et al.
2023, https://arxiv.org/abs/2305.08891) come with `scheduler.noise`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from loba_tui.core.associate.device_copies import sent
from loba_tui.core.associate.schedules import is_flow_matching
from loba_tui.core.errors import RecipeError
from loba_tui.core.program import randomness
from loba_tui.core.program.trajectories.noise_schedulers import FlowMatchEuler
from loba_tui.core.program.trajectories.timestep_density import TimestepDensity

NoiseChange = Callable[[Tensor, Tensor, Callable[..., Tensor]], tuple[Tensor, Tensor]]
"""Takes the noise that is applied, the noise that is wanted, and a source of normal noise."""
Weighting = Callable[[Tensor], Tensor]
"""From a signal-to-noise ratio (B,) to the weight (B,) of the squared error in x₀."""

_PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")


class NoiseLevels:
    """Shares of image and noise in what a model sees at each timestep: x_t = a_t x₀ + b_t ε.

    Diffusion models have a = √ᾱ and b = √(1 − ᾱ) whatever sampler is used (those that scale the
    noise instead divide it out again in `scale_model_input`); flow-matching models a = 1 − σ and
    b = σ.
    """

    def __init__(self, scheduler: Any, dtype: torch.dtype = torch.float64) -> None:
        """Read them off a diffusers scheduler; its own `add_noise` computes in float32."""
        num_steps = scheduler.config.num_train_timesteps
        kept = getattr(scheduler, "alphas_cumprod", None)
        if kept is None:
            self._labels = torch.arange(1, num_steps + 1, dtype=torch.float32)
            self.grid = self._labels.double() / num_steps
            self._a, self._b = 1 - self.grid, self.grid
            self._snr = (self._a / self._b) ** 2
        else:
            self._labels = torch.arange(num_steps)
            self.grid = self._labels.double() / (num_steps - 1)
            exact = kept.double().cpu()
            self._snr = exact / (1 - exact)
            kept = kept.to("cpu", dtype)
            self._a, self._b = kept.sqrt(), (1 - kept).sqrt()

    def noised(self, clean: Tensor, noise: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, C, H, W) images at noise levels (B,), and the timesteps (B,) of those."""
        a, b = self.coefficients(levels, clean)
        return a * clean + b * noise, self._labels[levels]

    def labels(self, levels: Tensor) -> Tensor:
        """Return the timesteps (B,) that label levels (B,)."""
        return self._labels[levels.cpu()]

    def snr(self, levels: Tensor) -> Tensor:
        """Return a² / b² of levels (B,), (B,) float64."""
        return self._snr[levels.cpu()]

    def coefficients(self, levels: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b of levels (B,) as (B, 1, 1, 1), with device and dtype of `like`."""
        at = levels.cpu()
        a, b = (sent(table[at], like.device, like.dtype) for table in (self._a, self._b))
        return a.view(-1, 1, 1, 1), b.view(-1, 1, 1, 1)

    def normalised(self, timesteps: Tensor) -> Tensor:
        """Return timesteps as losses and densities have them: 0 is clean, and 1 is noise."""
        return timesteps / float(self._labels[-1])

    def at(self, timesteps: Tensor) -> Tensor:
        """Return the levels (B,) that timesteps (B,) label."""
        return (timesteps - self._labels[0]).round().long()


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
        num_shares: int | None = None,
    ) -> None:
        """Prepare the process.

        Args:
            config: Of the recipe's noise scheduler, which has it from the model.
            seed: The run's.
            density: Which timesteps to prefer.
            changes: To plain noise, one after another.
            weighting: Which timesteps count how much; None counts all alike.
            num_shares: Micro-steps take the middles of so many equal shares of the density in
                turn, all rows the same; None draws timesteps.

        Raises:
            RecipeError: This kind of model is not trained this way.
        """
        self._scheduler: Any
        if is_flow_matching(config):
            self._scheduler = FlowMatchEuler.from_config(config)
            self.prediction_type = "flow"
        else:
            self._scheduler = DDPMScheduler.from_config(config, clip_sample=False)
            self.prediction_type = str(self._scheduler.config.prediction_type)
        if self.prediction_type not in _PREDICTIONS:
            raise RecipeError(f"the model predicts {self.prediction_type}, which is not known")
        kept = getattr(self._scheduler, "alphas_cumprod", None)
        if kept is not None and self.prediction_type == "epsilon" and float(kept[-1]) < 1e-6:
            raise RecipeError(
                "scheduler.noise: a schedule that ends in pure noise (rescale_betas_zero_snr)"
                " leaves an ε-predicting model nothing to learn there",
                "Take it with a model that predicts v or x₀.",
            )
        self._levels = NoiseLevels(self._scheduler, torch.float32)
        self._seed, self._density = seed, density
        self._changes, self._weighting = changes, weighting
        self._num_shares = num_shares

    @property
    def num_timesteps(self) -> int:
        """The number of train timesteps."""
        return int(self._scheduler.config.num_train_timesteps)

    def timesteps(self, index: int, progress: float, rows: Sequence[int]) -> Tensor:
        """Draw one timestep (B,) for each row of micro-step `index`.

        Raises:
            RecipeError: The density is zero everywhere.
        """
        first, last = self._levels.grid[[0, -1]].tolist()
        grid = torch.linspace(first, last, self.num_timesteps, dtype=torch.float64)
        weights = torch.as_tensor(self._density(grid, progress)).double()
        if not float(weights.sum()) > 0:
            raise RecipeError(
                f"scheduler.timestep: its density is 0 at all {len(grid)} timesteps", "Widen it."
            )
        if self._num_shares is not None:
            middle = (index % self._num_shares + 0.5) / self._num_shares
            reached = weights.cumsum(0) / weights.sum()
            levels = torch.full((len(rows),), int((reached < middle).sum()))
        else:
            levels = torch.tensor(
                [
                    randomness.weighted_choice(weights, 1, self._seed, "timestep", index, row)[0]
                    for row in rows
                ]
            )
        return self._levels.labels(levels)

    def normalised(self, timesteps: Tensor) -> Tensor:
        """Return timesteps as losses and densities have them: 0 is clean, and 1 is noise."""
        return self._levels.normalised(timesteps)

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
            return sent(torch.stack(drawn), like.device)

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
        """Return x_t = √ᾱ x₀ + √(1 − ᾱ) ε, or (1 − σ) x₀ + σ ε of flow matching, (B, C, H, W)."""
        return self._levels.noised(latents, noise, self._levels.at(timesteps.cpu()))[0]

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the model should have said: ε, v = √ᾱ ε − √(1 − ᾱ) x₀, x₀, or ε − x₀."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        if self.prediction_type == "flow":
            return noise - latents
        a, b = self._levels.coefficients(self._levels.at(timesteps.cpu()), latents)
        return a * noise - b * latents

    def with_image_moved(self, prediction: Tensor, change: Tensor, timesteps: Tensor) -> Tensor:
        """Return what says the same noise of an image that is moved by `change`, (B, C, H, W)."""
        if self.prediction_type == "epsilon":
            return prediction
        if self.prediction_type == "sample":
            return prediction + change
        if self.prediction_type == "flow":
            return prediction - change
        _, b = self._levels.coefficients(self._levels.at(timesteps.cpu()), change)
        return prediction - b * change

    def snr(self, timesteps: Tensor) -> Tensor:
        """Return ᾱ / (1 − ᾱ), or (1 − σ)² / σ² of flow matching, (B,)."""
        return self._levels.snr(self._levels.at(timesteps.cpu()))

    def weights(self, timesteps: Tensor) -> Tensor:
        """Return the weight (B,) of each row's squared error in what the model predicts.

        A weighting is stated for x₀, so that it means the same for every kind of model: an error in
        x₀ is √SNR times smaller than in ε, √(SNR + 1) times than in v, and √SNR + 1 = 1/σ times
        than in the velocity of flow matching.
        """
        if self._weighting is None:
            return torch.ones(len(timesteps))
        snr = self.snr(timesteps)
        weights = self._weighting(snr)
        if self.prediction_type == "epsilon":
            weights = weights / snr
        elif self.prediction_type == "v_prediction":
            weights = weights / (snr + 1)
        elif self.prediction_type == "flow":
            weights = weights / (snr.sqrt() + 1) ** 2
        return weights.float()
