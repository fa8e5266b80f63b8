"""A finished adapter's report: its figures, what they amount to, and report.json."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loba_tui.core.program.evaluation.calibration.calibrate import Calibration
from loba_tui.core.program.evaluation.costs.concept_costs import ConceptCosts
from loba_tui.core.program.evaluation.figures import Figures
from loba_tui.core.program.evaluation.verdict import judge

REPORT_VERSION = 1
_KEYS = (
    *("name", "scales", "num_samples", "images", "effect", "preservation", "clean_range"),
    *("efficacy", "outcome", "verdict", "region", "erasure", "attacks", "calibration", "costs"),
    "details",
)
"""The order of report.json."""


@dataclass(frozen=True, kw_only=True)
class Report(Figures):
    """Everything report.json says.

    Attributes:
        outcome: What the figures amount to, one of `verdict.OUTCOMES`.
        verdict: The sentences that explain it.
        calibration: Which scale was given which effect before; None where that was not asked for.
        costs: What an edit does to each of its concepts and to other prompts, a row each.
        details: How it was measured: prompts, seeds, sampler, base model, costs.
    """

    name: str
    outcome: str
    verdict: tuple[str, ...]
    calibration: Calibration | None = None
    costs: tuple[Mapping[str, Any], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of report.json; figures that do not exist are null, never NaN."""
        content = dataclasses.asdict(self)
        ordered = {"version": REPORT_VERSION, **{key: content[key] for key in _KEYS}}
        return json.dumps(_plain(ordered), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

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
        for attack in self.attacks or ():
            short[f"attack.{attack.name}"] = attack.short()
        if self.clean_range is not None:
            short["clean_range"] = "{:g} {:g}".format(*self.clean_range)
        short["scales"] = " ".join(f"{scale:g}" for scale in self.scales)
        return short


def make_report(
    name: str,
    figures: Figures,
    *,
    details: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
    costs: ConceptCosts | None = None,
    remark: str | None = None,
) -> Report:
    """Judge an adapter by its figures; what else is to be said follows the verdict's own."""
    outcome, verdict = judge(figures)
    if calibration is not None:
        calibration = calibration.proven(figures.scales, figures.effect)
        verdict = (*verdict, *calibration.sentences())
    if costs is not None:
        verdict = (*verdict, *costs.sentences())
    return Report(
        **vars(figures),
        name=name,
        outcome=outcome,
        verdict=(*verdict, remark) if remark else verdict,
        calibration=calibration,
        costs=() if costs is None else tuple(costs.table()),
        details=dict(details or {}),
    )


def _plain(value: Any) -> Any:
    """Return the value as JSON can hold it: NaN and infinities become null, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
