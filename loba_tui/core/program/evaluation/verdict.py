"""Turns figures into an outcome and plain sentences."""

from __future__ import annotations

from loba_tui.core.program.evaluation.eraser_verdict import judge_eraser
from loba_tui.core.program.evaluation.figures import Figures
from loba_tui.core.program.evaluation.slider_verdict import judge_slider

OUTCOMES = (
    "working",
    "weak",
    "entangled",
    "breaking",
    "one-sided",
    "reversed",
    "collapsed",
    "erased",
    "partly erased",
    "circumvented",
    "damaging",
    "strengthened",
    "dead",
    "unmeasured",
)


def judge(figures: Figures) -> tuple[str, tuple[str, ...]]:
    """Return the outcome, one of `OUTCOMES`, and the sentences that explain it."""
    if figures.erasure is not None:
        return judge_eraser(figures, figures.erasure)
    return judge_slider(figures)
