"""How well a slider moves the denoiser's predictions both ways, measured without an image.

With the direction d from negative to positive prompt and the change De_m at multiplier m,

    alignment = cos(De_m, sign(m) d)            strength  = <De_m, sign(m) d> / |d|^2
    symmetry  = cos(De_+, -De_-)

A few batches of the UNet tell a dead, a weak, a working and a collapsed slider apart.
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

Verdict = Literal["dead", "weak", "working", "reversed", "collapsed"]

# Chosen on size sliders of builtin:shapes-xl, where a sound run has alignment .81 and symmetry 1.0
# after two steps and keeps them above .8 and .9; at 40 times the learning rate both fall to .5, at
# 400 times alignment is 0.
# Area at +-2 moves by 5 % at strength .03, 14 % at .08, 34 % at .16 and 75 % at .55.
WEAK_STRENGTH = 0.1
WEAK_ALIGNMENT = 0.6
WEAK_SYMMETRY = 0.7
COLLAPSED_COSINE = 0.4
IDLE_SYMMETRY_LENGTH = 0.1


@dataclass(frozen=True)
class SliderEfficacy:
    """Figures of the module's formulas; "up" is the positive side, cosines are means over rows.

    Attributes:
        strength_up: Length along the wanted direction per unit of scale; 1 moves the target
            prompt's prediction as far as positive and negative prompts lie apart.
        strength_down: The same on the negative side.
        relative_length: Length of the change, in any direction, per unit of scale.
        symmetry_cosine: 1 where both sides are exact opposites.
        symmetry_length: The shorter side's length over the longer's.
        leakage: None where the recipe names nothing to preserve.
        num_rows: Pairs of latents and timesteps that were looked at.
        num_unet_rows: Cost in UNet rows so far, without the rollout's.
    """

    alignment_up: float
    alignment_down: float
    strength_up: float
    strength_down: float
    relative_length: float
    symmetry_cosine: float
    symmetry_length: float
    leakage: float | None
    verdict: Verdict
    num_rows: int
    num_unet_rows: int

    def sentence(self) -> str:
        """Say it in one sentence for the report."""
        leakage = "" if self.leakage is None else f", leakage {self.leakage:.2f}"
        return (
            f"Without images: {self.verdict}; alignment {self.alignment_up:.2f} up and "
            f"{self.alignment_down:.2f} down, strength {self.strength_up:.2f} and "
            f"{self.strength_down:.2f}, symmetry {self.symmetry_cosine:.2f}{leakage}."
        )


def slider_efficacy(probe: EfficacyProbe, multiplier: float = 1.0) -> SliderEfficacy:
    """Return the figures of the adapter as it is now, from both signs of the multiplier."""
    up, down = probe.change(multiplier), probe.change(-multiplier)
    leakage = probe.leakage(multiplier, up)
    lengths = length(up), length(down)
    figures = {
        "alignment_up": cosine(up, probe.direction),
        "alignment_down": cosine(down, -probe.direction),
        "strength_up": along(up, probe.direction),
        "strength_down": along(down, -probe.direction),
        "relative_length": ratio(sum(lengths) / 2, length(probe.direction)),
        "symmetry_cosine": cosine(up, -down),
        "symmetry_length": ratio(min(lengths), max(lengths)),
    }
    return SliderEfficacy(
        **figures,
        leakage=leakage,
        verdict=judge(**figures),
        num_rows=probe.num_rows,
        num_unet_rows=probe.num_predicted_rows,
    )


def judge(
    *,
    alignment_up: float,
    alignment_down: float,
    strength_up: float,
    strength_down: float,
    relative_length: float,
    symmetry_cosine: float,
    symmetry_length: float,
) -> Verdict:
    """Return the verdict; the weaker side decides, because a slider has to work both ways."""
    alignment = min(alignment_up, alignment_down)
    strength = min(strength_up, strength_down)
    if at_once := verdict_of_length(relative_length):
        return at_once
    if max(alignment_up, alignment_down) < -WEAK_ALIGNMENT:
        return "reversed"
    one_side_idle = symmetry_length < IDLE_SYMMETRY_LENGTH
    if min(alignment, symmetry_cosine) < COLLAPSED_COSINE and not one_side_idle:
        return "collapsed"
    sound = alignment >= WEAK_ALIGNMENT and symmetry_cosine >= WEAK_SYMMETRY
    return "working" if sound and strength >= WEAK_STRENGTH else "weak"
