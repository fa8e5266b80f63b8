"""How much more an adapter changes inside a region than outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loba_tui.core.program.evaluation.slider_effect import base_index

Box = tuple[float, float, float, float]
"""Left, top, right and bottom as shares of an image's sides, 0 to 1."""


@dataclass(frozen=True)
class Region:
    """Mean absolute change of pixels (0 to 1) against scale 0, by scale.

    Attributes:
        scale: The scale that `ratio` is of: the one that changes most inside.
        ratio: Change inside over change outside; None where nothing changes outside.
    """

    box: Box
    inside: tuple[float, ...]
    outside: tuple[float, ...]
    scale: float
    ratio: float | None


def inside_of(box: Box, height: int, width: int) -> np.ndarray:
    """Return (height, width) bool, True in pixels whose middle lies in the box."""
    left, top, right, bottom = box
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    return ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None]


def measure_region(box: Box, scales: Sequence[float], images: np.ndarray) -> Region:
    """Compare images (num_samples, num_scales, H, W, 3) with those at scale 0.

    Raises:
        ValueError: No pixel lies in the box, or none outside of it.
    """
    inside = inside_of(box, *images.shape[2:4])
    if inside.all() or not inside.any():
        raise ValueError(f"the region {box} holds {'all' if inside.all() else 'no'} pixels")
    base = images[:, [base_index(scales)]]
    change = np.abs(images - base).mean(axis=(0, 4))
    within, without = change[:, inside].mean(axis=1), change[:, ~inside].mean(axis=1)
    most = int(np.argmax(within))
    ratio = float(within[most] / without[most]) if without[most] > 0 else None
    return Region(
        box=box,
        inside=tuple(map(float, within)),
        outside=tuple(map(float, without)),
        scale=float(scales[most]),
        ratio=ratio,
    )
