"""The measured effect of an eraser: how often its concept still shows, and what else still works.

Pure numpy on labels that a measure read off the images: (num_samples, num_scales) of text or None,
a sample being one prompt at one seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loba_tui.core.program.evaluation.slider_effect import base_index

JUDGED_SCALE = 1.0
"""An eraser is made to be used at this strength."""

ERASED_SHARE = 0.05
"""A concept that shows in at most this share of the samples that ask for it is gone."""

MOST_ACCURACY_LOST = 0.05
ASKED_SHARE = 0.5
"""The base has to show the concept in this share of samples, or there is nothing to erase."""

DEAD_SHARE_MOVED = 0.1


@dataclass(frozen=True)
class Erasure:
    """Shares are 0 to 1, tuples follow the report's scales.

    Attributes:
        at: The scale that is judged.
        share: Of the samples that ask for the concept, those that show it.
        became: What those samples show at the judged scale, by label, "nothing" for None.
        accuracy: Of the samples that ask for something else, those that show what they ask for;
            None where there are none.
        accuracy_by_label: The same for each of the other labels.
    """

    measure: str
    label: str
    at: float
    share: tuple[float, ...]
    share_before: float
    share_after: float
    became: Mapping[str, int]
    accuracy: tuple[float, ...] | None
    accuracy_before: float | None
    accuracy_after: float | None
    accuracy_by_label: Mapping[str, tuple[float, ...]]
    num_asking: int
    num_others: int

    @property
    def accuracy_lost(self) -> float:
        """Share of the other samples that are no longer what was asked for; 0 without any."""
        if self.accuracy_before is None or self.accuracy_after is None:
            return 0.0
        return self.accuracy_before - self.accuracy_after


def measure_erasure(
    scales: Sequence[float],
    asking: np.ndarray,
    others: Mapping[str, np.ndarray],
    *,
    measure: str,
    label: str,
) -> Erasure:
    """Count labels at every scale.

    Args:
        scales: (num_scales), ascending, 0 among them.
        asking: (num_samples, num_scales) labels of samples that ask for the concept.
        others: The same for samples that ask for something else, by the label they ask for.
    """
    base = base_index(scales)
    at = min(range(len(scales)), key=lambda index: abs(scales[index] - JUDGED_SCALE))
    share = _shares(asking, label)
    by_label = {name: _shares(values, name) for name, values in others.items()}
    accuracy = None
    if others:
        right = np.concatenate([values == name for name, values in others.items()])
        accuracy = tuple(right.astype(float).mean(axis=0).tolist())
    found = Counter("nothing" if value is None else str(value) for value in asking[:, at])
    return Erasure(
        measure=measure,
        label=label,
        at=float(scales[at]),
        share=share,
        share_before=share[base],
        share_after=share[at],
        became=dict(found.most_common()),
        accuracy=accuracy,
        accuracy_before=None if accuracy is None else accuracy[base],
        accuracy_after=None if accuracy is None else accuracy[at],
        accuracy_by_label=by_label,
        num_asking=len(asking),
        num_others=sum(len(values) for values in others.values()),
    )


def _shares(values: np.ndarray, label: str) -> tuple[float, ...]:
    shares: list[float] = (values == label).astype(float).mean(axis=0).tolist()
    return tuple(shares)
