"""Min-SNR weighting: timesteps with little noise count no more than those of SNR gamma.

Hang et al. 2023, Efficient Diffusion Training via Min-SNR Weighting Strategy,
https://arxiv.org/abs/2303.09556
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import PositiveFloat
from torch import Tensor


def get_weighting(*, gamma: PositiveFloat = 5.0) -> Callable[[Tensor], Tensor]:
    """Return min(SNR, gamma): the weight of the squared error in x₀, by SNR (B,).

    Args:
        gamma: Above this signal-to-noise ratio, all timesteps count the same.
    """
    return lambda snr: snr.clamp(max=gamma)
