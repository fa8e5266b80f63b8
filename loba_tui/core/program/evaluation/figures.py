"""The figures that an adapter is judged by, read off images and what measures say of them.

Takes arrays and knows nothing of models: `proof.py` makes the arrays, `verdict.py` turns the
figures into words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loba_tui.core.program.evaluation.attacks.outcome import Attack
from loba_tui.core.program.evaluation.efficacy.eraser import EraserEfficacy
from loba_tui.core.program.evaluation.efficacy.slider import SliderEfficacy
from loba_tui.core.program.evaluation.eraser_effect import Erasure
from loba_tui.core.program.evaluation.image_health import ImageHealth, inspect_images
from loba_tui.core.program.evaluation.preservation import (
    Preservation,
    clean_range,
    measure_preservation,
)
from loba_tui.core.program.evaluation.region import Region
from loba_tui.core.program.evaluation.slider_effect import (
    Effect,
    Measurement,
    base_index,
    measure_effect,
)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Measured figures; shares are 0 to 1, "per scale" tuples follow `scales`.

    Attributes:
        scales: Ascending, 0 among them.
        num_samples: Prompts times seeds.
        effect: What a slider does to the measured attribute; None where nothing measures it.
        clean_range: Ends of the unbroken row of clean scales around 0; None if 0 itself is unclean.
        efficacy: What the UNet alone says; None where it was not asked.
        erasure: Of an eraser alone; images and preservation are then those of prompts that ask for
            others.
        attacks: What brought an erased concept back, and how often; None where nothing was tried.
    """

    scales: tuple[float, ...]
    num_samples: int
    images: ImageHealth
    effect: Effect | None
    preservation: tuple[Preservation, ...]
    clean_range: tuple[float, float] | None
    efficacy: SliderEfficacy | EraserEfficacy | None
    region: Region | None = None
    erasure: Erasure | None = None
    attacks: tuple[Attack, ...] | None = None


def measure_figures(
    scales: Sequence[float],
    images: np.ndarray,
    *,
    measured: Measurement | None = None,
    labels: Mapping[str, np.ndarray] | None = None,
    within: Mapping[str, float | None] | None = None,
    efficacy: SliderEfficacy | EraserEfficacy | None = None,
    region: Region | None = None,
    erasure: Erasure | None = None,
) -> Figures:
    """Compare images at every scale with those at scale 0.

    Args:
        scales: (num_scales), ascending, 0 among them.
        images: (num_samples, num_scales, H, W, 3) in [0, 1].
        labels: What must not change, by name: (num_samples, num_scales) of str, number or None.
        within: How far a number of a label may be from the base's; None is a tenth of it.
    """
    health = inspect_images(images, base_index(scales))
    effect = None if measured is None else measure_effect(scales, measured)
    preservation = tuple(
        measure_preservation(label, values, scales, (within or {}).get(label))
        for label, values in (labels or {}).items()
    )
    return Figures(
        scales=tuple(float(scale) for scale in scales),
        num_samples=erasure.num_asking + erasure.num_others if erasure else images.shape[0],
        images=health,
        effect=effect,
        preservation=preservation,
        clean_range=clean_range(scales, effect, preservation, health),
        efficacy=efficacy,
        region=region,
        erasure=erasure,
    )
