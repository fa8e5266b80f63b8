"""The results of a sweep: the figures of its runs, and their order, best first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loba_tui.client.sweeps.folder import Sweep
from loba_tui.client.sweeps.mark import SweepRun
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Event, Metric
from loba_tui.core.text import clean

RANKED_OUTCOMES = (
    *("working", "erased"),
    *("weak", "partly erased"),
    *("entangled", "one-sided", "breaking", "damaging", "circumvented"),
    *("reversed", "strengthened", "collapsed", "dead", "unmeasured"),
)
"""What a proof can say of an adapter, the best first."""

SMALLER_IS_BETTER = frozenset({"shown", "leakage", "validation_loss", "loss"})
_OF_SLIDERS = ("rho", "kept", "strength", "leakage")
_OF_ERASERS = ("shown", "others", "kept")
_OF_LOSSES = ("validation_loss", "loss")
FIGURES = tuple(dict.fromkeys((*_OF_SLIDERS, *_OF_ERASERS, *_OF_LOSSES)))
"""Every figure, in the order of the table's columns:

- rho: rank correlation of a slider's strength with what is measured, 1 at best
- kept: the share of what must not change that stays, of the label that suffers most
- strength: how far a slider moves the prediction per unit, the weaker of both directions
- leakage: how far it moves what is to be preserved, as a share of that
- shown: the share of images that still show what was to be erased
- others: the share of other prompts that are still drawn as asked
- validation_loss, loss: the last ones that were recorded
"""
_STATES = ("finished", "running", "starting", "paused", "stalled", "queued", "stopped", "failed")


@dataclass(frozen=True)
class Result:
    """One run of a sweep as it stands.

    Attributes:
        outcome: What its proof says; "" where there is none.
        figures: Those of FIGURES that are known.
        reason: Why it is not finished.
    """

    run: SweepRun
    state: str
    step: int
    total: int
    outcome: str
    figures: Mapping[str, float]
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return it as sweep.json holds it."""
        return {
            "number": self.run.number,
            "run": str(self.run.run.path),
            "values": dict(self.run.values),
            "state": self.state,
            "step": self.step,
            "total": self.total,
            "outcome": self.outcome,
            "figures": dict(self.figures),
            "reason": self.reason,
        }


def sweep_results(sweep: Sweep) -> list[Result]:
    """Return every run of a sweep, best first; those that are not finished are at the end.

    A run with a proof is judged by what it says; one that trains on images, which a proof says
    little of, by its validation loss, and by its last loss where there is none.
    """
    return SweepReader(sweep).look()


class SweepReader:
    """Follows the runs of a sweep; each look costs what is new since the one before."""

    def __init__(self, sweep: Sweep) -> None:
        self._runs = [_Followed(run) for run in sweep.runs]

    def look(self) -> list[Result]:
        """Return what `sweep_results` does."""
        return sorted((each.look() for each in self._runs), key=order_of)


def result_of(run: SweepRun) -> Result:
    """Return one run as it stands; takes as long as its metrics are many."""
    return _Followed(run).look()


class _Followed:
    """One run of a sweep, and what was read of it so far."""

    def __init__(self, run: SweepRun) -> None:
        self._run = run
        self._reader = RunReader(run.run)
        self._losses: dict[str, float] = {}
        self._ending: Event | None = None

    def look(self) -> Result:
        reader = self._reader
        status, liveness = reader.status(), reader.liveness()
        self._losses.update(_recorded(reader.new_metrics()))
        for event in reader.new_events():
            if event.kind == "started":
                self._ending = None
            elif event.kind in ("failed", "stopped"):
                self._ending = event
        is_done = liveness.state == "finished"
        report = (reader.report() or {}) if is_done else {}
        outcome = report.get("outcome")
        return Result(
            run=self._run,
            state=liveness.state,
            step=status.step if status else 0,
            total=status.total if status else 0,
            outcome=clean(outcome, limit=20) if isinstance(outcome, str) else "",
            figures={**_proven(report), **self._losses},
            reason="" if is_done else self._reason(liveness.reason),
        )

    def _reason(self, otherwise: str) -> str:
        told = self._ending.data.get("message", otherwise) if self._ending else otherwise
        return clean(told, limit=300)


def _proven(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a proof; a report from elsewhere may hold anything."""
    preserved = report.get("preservation")
    kept = [
        number
        for each in (preserved if isinstance(preserved, list) else [])
        if (number := _number(each, "least_within_2")) is not None
    ]
    strengths = [_number(report, "efficacy", f"strength_{way}") for way in ("up", "down")]
    known = [each for each in strengths if each is not None]
    found = {
        "rho": _number(report, "effect", "rho", "mean"),
        "kept": min(kept, default=None),
        "strength": min(known, default=None),
        "leakage": _number(report, "efficacy", "leakage"),
        "shown": _number(report, "erasure", "share_after"),
        "others": _number(report, "erasure", "accuracy_after"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _number(value: object, *keys: str) -> float | None:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def _recorded(metrics: Sequence[Metric]) -> dict[str, float]:
    """Return the last losses that a run has recorded."""
    found: dict[str, float] = {}
    for metric in metrics:
        if metric.loss is not None:
            found["loss"] = metric.loss
        validation = _number(metric.values, "validation_loss")
        if validation is not None:
            found["validation_loss"] = validation
    return found


def order_of(result: Result) -> tuple[Any, ...]:
    """Return a key by which the best run is sorted first."""
    state = _STATES.index(result.state) if result.state in _STATES else len(_STATES)
    if result.state != "finished":
        return (state, result.run.number)
    figures = result.figures
    # A proof of a model that was tuned on images has neither: nothing there is measured to move.
    is_judged = bool(figures.keys() & {"rho", "strength", "shown"})
    by = _OF_LOSSES
    outcome = 0
    if is_judged:
        by = (*(_OF_ERASERS if "shown" in figures else _OF_SLIDERS), *_OF_LOSSES)
        ranks = RANKED_OUTCOMES
        outcome = ranks.index(result.outcome) if result.outcome in ranks else len(ranks)
    return (state, outcome, *(_badness(figures, key) for key in by), result.run.number)


def _badness(figures: Mapping[str, float], key: str) -> float:
    value = figures.get(key)
    if value is None or not math.isfinite(value):
        return math.inf
    # A difference in the third digit is none, but for losses, which are all that is left by then.
    rounded = value if key in _OF_LOSSES else round(value, 2)
    return rounded if key in SMALLER_IS_BETTER else -rounded
