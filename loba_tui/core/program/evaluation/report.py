"""What a finished adapter was measured to do: figures, verdict and report.json.

Takes arrays (images and what measures read off them) and knows nothing of models; `proof.py` makes
the arrays, `report_plot.py` draws the page. `verdict.py` turns the figures into words.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from loba_tui.core.program.evaluation.effect import Effect, Measurement, base_index, measure_effect
from loba_tui.core.program.evaluation.erasure import Erasure
from loba_tui.core.program.evaluation.image_health import ImageHealth, inspect_images
from loba_tui.core.program.evaluation.preservation import (
    Preservation,
    clean_range,
    measure_preservation,
)
from loba_tui.core.program.evaluation.region import Region
from loba_tui.core.program.evaluation.verdict import judge

if TYPE_CHECKING:
    from loba_tui.core.program.evaluation.efficacy import Efficacy
    from loba_tui.core.program.evaluation.erasure_efficacy import ErasureEfficacy

REPORT_VERSION = 1


@dataclass(frozen=True)
class Report:
    """Everything report.json says; shares are 0 to 1, "per scale" tuples follow `scales`."""

    name: str
    scales: tuple[float, ...]
    num_samples: int
    images: ImageHealth
    effect: Effect | None
    preservation: tuple[Preservation, ...]
    clean_range: tuple[float, float] | None
    """Ends of the unbroken row of clean scales around 0; None if 0 itself is unclean."""
    efficacy: Efficacy | ErasureEfficacy | None
    outcome: str
    verdict: tuple[str, ...]
    region: Region | None = None
    erasure: Erasure | None = None
    """Of an eraser alone; images and preservation are then those of prompts that ask for others."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """How it was measured: prompts, seeds, sampler, base model, costs."""

    def to_json(self) -> str:
        """Return the text of report.json; figures that do not exist are null, never NaN."""
        content = {"version": REPORT_VERSION, **dataclasses.asdict(self)}
        return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def summary(self) -> dict[str, str]:
        """Return the measured effect in a few short strings, fit for an adapter's metadata."""
        short = {"outcome": self.outcome}
        if self.effect is not None:
            short["measure"] = self.effect.measure
            short["effect"] = " ".join(f"{value:.4g}" for value in self.effect.mean)
            short["rho"] = f"{self.effect.rho.mean:.3f}"
        if self.erasure is not None:
            short["erased"] = f"{self.erasure.measure}={self.erasure.label}"
            short["share"] = " ".join(f"{value:.3g}" for value in self.erasure.share)
            if self.erasure.accuracy is not None:
                short["others"] = " ".join(f"{value:.3g}" for value in self.erasure.accuracy)
        if self.clean_range is not None:
            short["clean_range"] = "{:g} {:g}".format(*self.clean_range)
        short["scales"] = " ".join(f"{scale:g}" for scale in self.scales)
        return short


def make_report(
    name: str,
    scales: Sequence[float],
    images: np.ndarray,
    *,
    measured: Measurement | None = None,
    labels: Mapping[str, np.ndarray] | None = None,
    region: Region | None = None,
    efficacy: Efficacy | ErasureEfficacy | None = None,
    erasure: Erasure | None = None,
    details: Mapping[str, Any] | None = None,
) -> Report:
    """Judge an adapter by its images.

    Args:
        name: Of the run or adapter.
        scales: (num_scales), ascending, 0 among them.
        images: (num_samples, num_scales, H, W, 3) in [0, 1].
        measured: The attribute that the slider is to move; None where nothing measures it.
        labels: What must not change, by name: (num_samples, num_scales) of str, number or None.
        efficacy: Figures of the UNet alone, if they were computed.
        region: How much changes where it is wanted, and elsewhere.
        erasure: What an eraser was measured to do; None for a slider.
        details: How it was measured; copied into the report.
    """
    base = base_index(scales)
    health = inspect_images(images, base)
    effect = None if measured is None else measure_effect(scales, measured)
    preservation = tuple(
        measure_preservation(label, values, scales) for label, values in (labels or {}).items()
    )
    report = Report(
        name=name,
        scales=tuple(float(scale) for scale in scales),
        num_samples=erasure.num_asking + erasure.num_others if erasure else images.shape[0],
        images=health,
        effect=effect,
        preservation=preservation,
        clean_range=clean_range(scales, effect, preservation, health),
        efficacy=efficacy,
        outcome="",
        verdict=(),
        region=region,
        erasure=erasure,
        details=dict(details or {}),
    )
    outcome, sentences = judge(report)
    return dataclasses.replace(report, outcome=outcome, verdict=sentences)


def _plain(value: Any) -> Any:
    """Return the value as JSON can hold it: NaN and infinities become null, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
