"""Debiased estimation: noisy timesteps, which decide what is on the image, count for more.

Yu et al. 2023, Debias the Training of Diffusion Models, https://arxiv.org/abs/2310.08442
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def get_weighting() -> Callable[[Tensor], Tensor]:
    """Return √SNR: the weight of the squared error in x₀, by SNR (B,); 1/√SNR of that in ε."""
    return lambda snr: snr.sqrt()
