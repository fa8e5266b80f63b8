"""Sampling steps of many rows at once, each row at its own place of the same grid.

diffusers' schedulers step a batch from one timestep to the next, so that latents at different
timesteps are stepped one by one. Samplers without a memory need no more than the two noise levels
of a row: their formulas are computed here for all rows, in the order of operations that diffusers
has, and so with its bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from loba_tui.core.associate.device_copies import sent
from loba_tui.core.program.trajectories.noise_schedulers import FlowMatchEuler


class RowSteps(ABC):
    """Steps rows (B, C, H, W) that are at places (B,) of a grid."""

    def inputs(self, latents: Tensor, places: Tensor) -> Tensor:
        """Return latents as the model expects them."""
        return latents

    @abstractmethod
    def step(
        self,
        latents: Tensor,
        noise_pred: Tensor,
        places: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """Return the rows one place further; each draws from its own generator, if any does."""


def row_steps(grid: Any) -> RowSteps | None:
    """Return the steps of a scheduler with its grid laid out; None where it has a memory."""
    config = grid.config
    is_plain = config.get("prediction_type", "epsilon") in ("epsilon", "v_prediction")
    if type(grid) is EulerDiscreteScheduler and is_plain:
        return _Euler(grid)
    if type(grid) is EulerAncestralDiscreteScheduler and is_plain:
        return _EulerAncestral(grid)
    if type(grid) is DDIMScheduler and is_plain and not (config.clip_sample or config.thresholding):
        return _Ddim(grid)
    is_flow = type(grid) in (FlowMatchEuler, FlowMatchEulerDiscreteScheduler)
    return _Flow(grid) if is_flow and not config.stochastic_sampling else None


class _Euler(RowSteps):
    """x + (x − x̂₀)/σ · (σ' − σ), with x̂₀ = x − σ ε̂, or what v̂ says."""

    def __init__(self, grid: Any) -> None:
        self._sigmas = grid.sigmas.float().cpu()
        self._predicts_v = grid.config.prediction_type == "v_prediction"

    def inputs(self, latents: Tensor, places: Tensor) -> Tensor:
        (sigma,) = _columns(latents, self._sigmas[places])
        return latents / ((sigma**2 + 1) ** 0.5)

    def step(
        self,
        latents: Tensor,
        noise_pred: Tensor,
        places: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        sigma = self._sigmas[places]
        columns = _columns(latents, sigma, self._sigmas[places + 1] - sigma)
        stepped = self._moved(latents.float(), noise_pred, *columns)
        return stepped.to(noise_pred.dtype)

    def _moved(self, latents: Tensor, noise_pred: Tensor, sigma: Tensor, change: Tensor) -> Tensor:
        if self._predicts_v:
            image = noise_pred * (-sigma / (sigma**2 + 1) ** 0.5) + (latents / (sigma**2 + 1))
        else:
            image = latents - sigma * noise_pred
        return latents + (latents - image) / sigma * change


class _EulerAncestral(_Euler):
    """Moves on to a level below σ', and adds fresh noise up to it."""

    def __init__(self, grid: Any) -> None:
        super().__init__(grid)
        before, after = self._sigmas[:-1], self._sigmas[1:]
        self._up = (after**2 * (before**2 - after**2) / before**2) ** 0.5
        self._down = (after**2 - self._up**2) ** 0.5

    def step(
        self,
        latents: Tensor,
        noise_pred: Tensor,
        places: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        sigma = self._sigmas[places]
        columns = _columns(latents, sigma, self._down[places] - sigma, self._up[places])
        moved = self._moved(latents.float(), noise_pred, *columns[:2])
        shape = (1, *noise_pred.shape[1:])
        drawn = [torch.randn(shape, generator=g, dtype=noise_pred.dtype) for g in generators]
        fresh = sent(torch.cat(drawn), latents.device)
        return (moved + fresh * columns[2]).to(noise_pred.dtype)


class _Ddim(RowSteps):
    """√ᾱ' x̂₀ + √(1 − ᾱ') ε̂, without added noise."""

    def __init__(self, grid: Any) -> None:
        kept = grid.alphas_cumprod.float().cpu()
        timesteps = grid.timesteps.cpu()
        before = timesteps - grid.config.num_train_timesteps // grid.num_inference_steps
        last = torch.as_tensor(grid.final_alpha_cumprod, dtype=torch.float32).cpu()
        self._kept = kept[timesteps]
        self._kept_before = torch.where(before >= 0, kept[before.clamp(min=0)], last)
        self._predicts_v = grid.config.prediction_type == "v_prediction"

    def step(
        self,
        latents: Tensor,
        noise_pred: Tensor,
        places: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        kept, kept_before = self._kept[places], self._kept_before[places]
        columns = _columns(
            latents,
            kept**0.5,
            (1 - kept) ** 0.5,
            kept_before**0.5,
            (1 - kept_before) ** 0.5,
        )
        a, b, a_before, b_before = columns
        if self._predicts_v:
            image, noise = a * latents - b * noise_pred, a * noise_pred + b * latents
        else:
            image, noise = (latents - b * noise_pred) / a, noise_pred
        return a_before * image + b_before * noise


class _Flow(RowSteps):
    """x + (σ' − σ) v̂."""

    def __init__(self, grid: Any) -> None:
        self._sigmas = grid.sigmas.float().cpu()

    def step(
        self,
        latents: Tensor,
        noise_pred: Tensor,
        places: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        (change,) = _columns(latents, self._sigmas[places + 1] - self._sigmas[places])
        return (latents.float() + change * noise_pred).to(noise_pred.dtype)


def _columns(like: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Return numbers (B,) of each row as (B, 1, 1, 1), sent to the device of `like` together."""
    columns = sent(torch.stack(values), like.device)
    return tuple(columns.view(len(values), -1, *[1] * (like.ndim - 1)))
