"""Input perturbation: latents get a little more noise than the model is asked to name.

Ning et al. 2023, Input Perturbation Reduces Exposure Bias in Diffusion Models,
https://arxiv.org/abs/2301.11706
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import PositiveFloat
from torch import Tensor

Change = Callable[[Tensor, Tensor, Callable[..., Tensor]], tuple[Tensor, Tensor]]


def get_noising(*, gamma: PositiveFloat = 0.1) -> Change:
    """Return what changes the noise (B, C, H, W) that is put on latents, not what is asked for.

    Args:
        gamma: The noise ε becomes ε + gamma·ξ, with ξ as random as ε.
    """

    def change(
        applied: Tensor, wanted: Tensor, normal: Callable[..., Tensor]
    ) -> tuple[Tensor, Tensor]:
        return applied + gamma * normal(*applied.shape[1:]), wanted

    return change
