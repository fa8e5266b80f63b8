"""What an eraser does to the denoiser's predictions, measured without drawing an image.

With d = ε₀(goal) − ε₀(c) the way from the concept's prompt c to what is to take its place (the
recipe's neutral prompt, or the unconditional one) and Δε = ε₁(c) − ε₀(c) the change that the
adapter makes at strength 1:

    removal = <Δε, d> / |d|²     alignment = cos(Δε, d)     leakage = |Δε(preserve)| / |Δε(c)|
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from loba_tui.core.associate.containers.base import ModelContainer, PromptEmbeds
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.evaluation.efficacy import (
    HeldOut,
    Predictions,
    along,
    cosine,
    length,
    ratio,
)

ErasureVerdict = Literal["working", "weak", "dead", "strengthened", "collapsed"]

# On shapes-xl, "red" erased: UCE and a LECO of 120 steps have removals above .5; an adapter of a
# few steps, which leaves the concept in every sample, stays below .2.
WORKING_REMOVAL = 0.4
DEAD_LENGTH = 0.02
STRENGTHENED_REMOVAL = -0.1
COLLAPSED_LENGTH = 3.0
COLLAPSED_ALIGNMENT = 0.15


@dataclass(frozen=True)
class ErasureEfficacy:
    """Figures of the module's formulas, over all rows.

    Attributes:
        removal: 1 where the prediction has gone all the way to the goal, 0 where it has not moved.
        alignment: Cosine with the wanted direction, mean over rows.
        relative_length: Length of the change, in any direction, over that of the wanted one.
        leakage: None where the recipe names nothing to preserve.
        verdict: What these amount to.
        num_rows: Pairs of latents and timesteps that were looked at.
        num_unet_rows: Cost in UNet rows, without the rollout's.
    """

    removal: float
    alignment: float
    relative_length: float
    leakage: float | None
    verdict: ErasureVerdict
    num_rows: int
    num_unet_rows: int

    def sentence(self) -> str:
        """Say it in one sentence for the report."""
        leakage = "" if self.leakage is None else f", leakage {self.leakage:.2f}"
        return (
            f"Without images: {self.verdict}; {self.removal:.0%} of the way from the concept's "
            f"prediction to its replacement's, alignment {self.alignment:.2f}{leakage}."
        )


@torch.no_grad()
def erasure_efficacy(
    container: ModelContainer,
    scale: RowScale,
    held_out: HeldOut,
    *,
    target: PromptEmbeds,
    goal: PromptEmbeds,
    preserve: PromptEmbeds | None = None,
    batch_size: int = 16,
) -> ErasureEfficacy:
    """Compare the adapter's change of the prediction with the wanted one.

    Args:
        container: The model, with the adapter attached.
        scale: Strength of that adapter.
        held_out: From `roll_out` with the same prompts as `target`.
        target: One row for each prompt of the rollout: the concepts.
        goal: What takes the place of each.
        preserve: Prompts that must not move, any number of rows.
        batch_size: UNet rows at once.
    """
    predict = Predictions(container, held_out, batch_size)
    with scale.base():
        base = predict(target.select(held_out.rows))
        wanted = predict(goal.select(held_out.rows)) - base
    with scale(1.0):
        change = predict(target.select(held_out.rows)) - base
    leakage = None
    if preserve is not None and len(preserve):
        kept = preserve.select([row % len(preserve) for row in range(len(held_out.rows))])
        with scale.base():
            base_kept = predict(kept)
        with scale(1.0):
            leakage = ratio(length(predict(kept) - base_kept), length(change))
    figures = {
        "removal": along(change, wanted),
        "alignment": cosine(change, wanted),
        "relative_length": ratio(length(change), length(wanted)),
    }
    return ErasureEfficacy(
        **figures,
        leakage=leakage,
        verdict=judge(**figures),
        num_rows=len(held_out.rows),
        num_unet_rows=predict.num_unet_rows,
    )


def judge(*, removal: float, alignment: float, relative_length: float) -> ErasureVerdict:
    """Return the verdict."""
    if not math.isfinite(relative_length) or relative_length > COLLAPSED_LENGTH:
        return "collapsed"
    if relative_length < DEAD_LENGTH:
        return "dead"
    if removal < STRENGTHENED_REMOVAL:
        return "strengthened"
    if alignment < COLLAPSED_ALIGNMENT:
        return "collapsed" if relative_length > 1 else "weak"
    return "working" if removal >= WORKING_REMOVAL else "weak"
