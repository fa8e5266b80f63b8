"""Sizes of images and of their latents."""

from __future__ import annotations

from typing import Any, Protocol

from loba_tui.core.errors import RecipeError


class _Sized(Protocol):
    """A container, as far as sizes go."""

    pipeline: Any

    @property
    def resolution(self) -> int: ...

    @property
    def pixel_multiple(self) -> int: ...


def latent_side(container: _Sized, resolution: int | None) -> int:
    """Return the side of the latent of a square image; None takes the model's own resolution.

    Raises:
        RecipeError: The model cannot draw images of this size.
    """
    pixels = container.resolution if resolution is None else resolution
    multiple = container.pixel_multiple
    if pixels % multiple:
        raise RecipeError(
            f"train.resolution: {pixels} pixels do not fit this model.",
            f"Use a multiple of {multiple}; its own resolution is {container.resolution}.",
        )
    return int(pixels // container.pipeline.vae_scale_factor)
