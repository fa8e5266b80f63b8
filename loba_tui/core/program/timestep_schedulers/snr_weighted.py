"""Timesteps by their signal-to-noise ratio, SNR.

- min_snr: Hang et al. 2023, Min-SNR Weighting, https://arxiv.org/abs/2303.09556
- debiased: Yu et al. 2023, Debias the Training of Diffusion Models, https://arxiv.org/abs/2310.08442
- p2: Choi et al. 2022, Perception Prioritized Training, https://arxiv.org/abs/2204.00227

Those are weights of the loss; here they say how often or how much each timestep is trained, which
comes to the same in the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor


def get_timestep_scheduler(
    *,
    weighting: Literal["min_snr", "debiased", "p2"] = "min_snr",
    gamma: PositiveFloat = 5.0,
    process: Literal["scaled_linear", "flow"] = "scaled_linear",
    beta_start: PositiveFloat = 0.00085,
    beta_end: PositiveFloat = 0.012,
) -> Callable[[Tensor, float], Tensor]:
    """Return the density over normalised timesteps t (N,) in [0, 1].

    Args:
        weighting: min(SNR, gamma) / SNR; or 1 / √SNR, at most `gamma`; or 1 / (1 + SNR).
        gamma: Bound of the first two.
        process: How noise grows with t: as in SD and SD-XL, or as in flow matching.
        beta_start: First β of "scaled_linear".
        beta_end: Last β of "scaled_linear".
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)

    def snr_at(t: Tensor) -> Tensor:
        if process == "flow":
            t = t.double().clamp(1e-3, 1 - 1e-3)
            return ((1 - t) / t) ** 2
        alpha = alphas[(t.double() * 999).round().long().cpu()].to(t.device)
        return alpha / (1 - alpha)

    def density(t: Tensor, progress: float) -> Tensor:
        snr = snr_at(t)
        if weighting == "min_snr":
            return snr.clamp_max(gamma) / snr
        if weighting == "debiased":
            return snr.rsqrt().clamp_max(gamma)
        return 1 / (1 + snr)

    return density
