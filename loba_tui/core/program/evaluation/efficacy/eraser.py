"""How far an eraser moves a concept's predictions to its replacement's, measured without an image.

With d = ε₀(goal) − ε₀(c) the way from the concept's prompt c to what is to take its place (the
recipe's neutral prompt, or the unconditional one) and Δε = ε₁(c) − ε₀(c) the change that the
adapter makes at strength 1:

    removal = <Δε, d> / |d|²     alignment = cos(Δε, d)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loba_tui.core.program.evaluation.efficacy.probe import (
    EfficacyProbe,
    along,
    cosine,
    length,
    ratio,
    verdict_of_length,
)

EraserVerdict = Literal["working", "weak", "dead", "strengthened", "collapsed"]

# On shapes-xl, "red" erased: UCE and a LECO of 120 steps have removals above .5; an adapter of a
# few steps, which leaves the concept in every sample, stays below .2.
WORKING_REMOVAL = 0.4
STRENGTHENED_REMOVAL = -0.1
COLLAPSED_ALIGNMENT = 0.15


@dataclass(frozen=True)
class EraserEfficacy:
    """Figures of the module's formulas, over all rows.

    Attributes:
        removal: 1 where the prediction has gone all the way to the goal, 0 where it has not moved.
        alignment: Cosine with the wanted direction, mean over rows.
        relative_length: Length of the change, in any direction, over that of the wanted one.
        leakage: None where the recipe names nothing to preserve.
        num_rows: Pairs of latents and timesteps that were looked at.
        num_unet_rows: Cost in UNet rows, without the rollout's.
    """

    removal: float
    alignment: float
    relative_length: float
    leakage: float | None
    verdict: EraserVerdict
    num_rows: int
    num_unet_rows: int

    def sentence(self) -> str:
        """Say it in one sentence for the report."""
        leakage = "" if self.leakage is None else f", leakage {self.leakage:.2f}"
        return (
            f"Without images: {self.verdict}; {self.removal:.0%} of the way from the concept's "
            f"prediction to its replacement's, alignment {self.alignment:.2f}{leakage}."
        )


def eraser_efficacy(probe: EfficacyProbe) -> EraserEfficacy:
    """Return the figures of the adapter as it is now, at strength 1."""
    change = probe.change(1.0)
    leakage = probe.leakage(1.0, change)
    figures = {
        "removal": along(change, probe.direction),
        "alignment": cosine(change, probe.direction),
        "relative_length": ratio(length(change), length(probe.direction)),
    }
    return EraserEfficacy(
        **figures,
        leakage=leakage,
        verdict=judge(**figures),
        num_rows=probe.num_rows,
        num_unet_rows=probe.num_predicted_rows,
    )


def judge(*, removal: float, alignment: float, relative_length: float) -> EraserVerdict:
    """Return the verdict."""
    if at_once := verdict_of_length(relative_length):
        return at_once
    if removal < STRENGTHENED_REMOVAL:
        return "strengthened"
    if alignment < COLLAPSED_ALIGNMENT:
        return "collapsed" if relative_length > 1 else "weak"
    return "working" if removal >= WORKING_REMOVAL else "weak"
