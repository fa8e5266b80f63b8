"""Labels that must not change when the slider moves, and the scales over which they do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loba_tui.core.program.evaluation.image_health import ImageHealth
from loba_tui.core.program.evaluation.slider_effect import Effect, base_index

KEPT_SHARE = 0.9
"""A scale counts as clean where at least this share of samples kept each label and is unbroken."""

NUMBER_TOLERANCE = 0.1
"""A numeric label is unchanged within this share of the base's value, unless told otherwise."""

PRESERVATION_WITHIN = 2.0


@dataclass(frozen=True)
class Preservation:
    """Share of samples whose label at a scale equals that at scale 0.

    Samples in which the base itself has no label cannot be judged: `num_undetermined` of them are
    left out. A label that is lost at a scale counts as changed.
    """

    label: str
    share_unchanged: tuple[float, ...]
    num_judged: int
    num_undetermined: int
    least_within_2: float | None
    """The smallest share at scales within ±2."""


def measure_preservation(
    label: str, values: np.ndarray, scales: Sequence[float], within: float | None = None
) -> Preservation:
    """Compare the labels (num_samples, num_scales) of every scale with those of the base.

    Args:
        within: How far a number may be from the base's; None is a tenth of the base's.
    """
    base = base_index(scales)
    judged = [sample for sample in values if not _missing(sample[base])]
    unchanged = [[_same(value, sample[base], within) for value in sample] for sample in judged]
    shares = np.mean(unchanged, axis=0) if judged else np.full(len(scales), np.nan)
    near = [s for s, scale in zip(shares, scales, strict=True) if abs(scale) <= PRESERVATION_WITHIN]
    return Preservation(
        label=label,
        share_unchanged=tuple(float(share) for share in shares),
        num_judged=len(judged),
        num_undetermined=len(values) - len(judged),
        least_within_2=float(min(near)) if judged else None,
    )


def clean_scales(
    effect: Effect | None, preservation: Sequence[Preservation], health: ImageHealth
) -> np.ndarray:
    """Return (num_scales) bool: attribute found, labels kept and image sound in 90 % of samples."""
    rows = [health.share_sound]
    if effect is not None:
        rows.append(effect.share_present)
    rows += [kept.share_unchanged for kept in preservation if kept.num_judged]
    return np.min(np.array(rows), axis=0) >= KEPT_SHARE


def clean_range(
    scales: Sequence[float],
    effect: Effect | None,
    preservation: Sequence[Preservation],
    health: ImageHealth,
) -> tuple[float, float] | None:
    """Return the ends of the contiguous clean scales around 0, or None if 0 itself is unclean."""
    clean = clean_scales(effect, preservation, health)
    low = high = base_index(scales)
    if not clean[low]:
        return None
    while low > 0 and clean[low - 1]:
        low -= 1
    while high < len(scales) - 1 and clean[high + 1]:
        high += 1
    return float(scales[low]), float(scales[high])


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _same(value: object, reference: object, within: float | None) -> bool:
    if _missing(value):
        return False
    if isinstance(value, int | float) and isinstance(reference, int | float):
        most = NUMBER_TOLERANCE * abs(reference) if within is None else within
        return abs(value - reference) <= most
    return value == reference
