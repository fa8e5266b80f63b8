"""Turns a slider's figures into an outcome and plain sentences.

Thresholds are on means over samples, because single samples are noisy: a dead adapter's rho of
*means* is often near 1 by chance, its mean rho per sample is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loba_tui.core.program.evaluation.figures import Figures
from loba_tui.core.program.evaluation.preservation import KEPT_SHARE
from loba_tui.core.program.evaluation.region import Region
from loba_tui.core.program.evaluation.slider_effect import Effect, Side
from loba_tui.core.units import scale_label

DEAD_CHANGE = 0.03
"""Moving the mean by less than this share of the base's value is not moving it."""

WEAK_CHANGE = 0.10
DEAD_RHO = 0.3
WORKING_RHO = 0.8
ONE_SIDED_BALANCE = 0.15
ONE_SIDED_RHO = 0.5


def judge_slider(figures: Figures) -> tuple[str, tuple[str, ...]]:
    """Return the outcome, one of `verdict.OUTCOMES`, and the sentences that explain it."""
    sentences = []
    if figures.effect is not None:
        outcome = _outcome_of_effect(figures, figures.effect)
        sentences.append(_headline(outcome, figures.effect))
        sentences += _effect_sentences(figures.effect, figures.scales)
    elif figures.efficacy is not None:
        outcome = figures.efficacy.verdict
        sentences.append(f"No measure was given; judged by the denoiser alone, it is {outcome}.")
    else:
        outcome = "unmeasured"
        sentences.append("No measure was given, so what it does to the images is not judged.")
    sentences += _range_sentences(figures)
    sentences += _preservation_sentences(figures)
    if figures.region is not None:
        sentences.append(_region_sentence(figures.region))
    if figures.efficacy is not None:
        sentences.append(figures.efficacy.sentence())
    return outcome, tuple(sentences)


def _outcome_of_effect(figures: Figures, effect: Effect) -> str:
    """Name the first thing that is wrong, the gravest first."""
    # Before all else, because a measure says anything about broken images.
    nearest = _unclean_nearest_scales(figures)
    if any(_broken_at(figures, index) for index in nearest):
        return "breaking"
    if effect.relative_change < DEAD_CHANGE:
        return "dead"
    if _idle_side(effect) is not None:
        return "one-sided"
    if abs(effect.rho.mean) < DEAD_RHO:
        return "dead"
    if effect.rho.mean < 0:
        return "reversed"
    if nearest:
        return "entangled"
    if effect.relative_change < WEAK_CHANGE or effect.rho_within_limits.mean < WORKING_RHO:
        return "weak"
    return "working"


def _idle_side(effect: Effect) -> Side | None:
    """Return the side that does nothing while the other works, unless it is at the limit anyway."""
    if effect.below is None or effect.above is None or effect.balance is None:
        return None
    weaker, stronger = sorted((effect.below, effect.above), key=lambda side: abs(side.change))
    if 2 * weaker.num_at_limit > effect.rho.num_samples:
        return None
    idle = effect.balance < ONE_SIDED_BALANCE or abs(weaker.rho) < DEAD_RHO
    return weaker if idle and abs(stronger.rho) >= ONE_SIDED_RHO else None


def _unclean_nearest_scales(figures: Figures) -> list[int]:
    """Return which of the two scales next to 0 are outside the clean range."""
    if figures.clean_range is None:  # the base itself cannot be read: not the adapter's doing
        return []
    base = figures.scales.index(0)
    low, high = figures.clean_range
    beside = [index for index in (base - 1, base + 1) if 0 <= index < len(figures.scales)]
    return [index for index in beside if not low <= figures.scales[index] <= high]


def _broken_at(figures: Figures, index: int) -> bool:
    """Tell whether images at a scale are burnt, blank or without the measured thing."""
    present = figures.effect.share_present[index] if figures.effect is not None else 1.0
    return min(figures.images.share_sound[index], present) < KEPT_SHARE


def _headline(outcome: str, effect: Effect) -> str:
    what = effect.measure
    return {
        "working": f"It works: {what} follows the scale on both sides of 0."
        if effect.below and effect.above
        else f"It works: {what} follows the scale.",
        "weak": f"It works weakly: {what} follows the scale, but not far or not in every sample.",
        "entangled": f"It moves {what}, and already at small scales other things with it.",
        "breaking": "It breaks images already at small scales: burnt, blank or nothing left to "
        f"measure ({what}).",
        "one-sided": f"It works on one side of 0 only: {what} hardly moves on the other.",
        "reversed": f"It works backwards: {what} falls as the scale rises.",
        "dead": f"It does nothing that can be measured to {what}.",
    }[outcome]


def _effect_sentences(effect: Effect, scales: Sequence[float]) -> list[str]:
    parts = []
    for side in (effect.below, effect.above):
        if side is None:
            continue
        moved = (
            f"{side.ratio:.2f}\N{MULTIPLICATION SIGN}"
            if side.ratio is not None
            else f"{side.change:+.3g}"
        )
        parts.append(f"{moved} at {scale_label(side.scale)}")
    unit = f" ({effect.unit})" if effect.unit else ""
    sentences = [f"Mean {effect.measure}{unit} against scale 0: {', '.join(parts)}."]
    rho = effect.rho
    sentences.append(
        f"Spearman's rho per sample {rho.mean:.3f} in the mean, {rho.worst:.3f} at worst, "
        f"over {rho.num_samples} samples."
    )
    if rho.num_constant or rho.num_too_few:
        sentences.append(
            f"{rho.num_constant} samples never moved and {rho.num_too_few} could hardly be "
            "measured; they count as rho = 0."
        )
    worst = int(np.argmin(effect.share_present))
    if effect.share_present[worst] < 1:
        sentences.append(
            f"No {effect.measure} could be read off {1 - effect.share_present[worst]:.0%} of "
            f"images at {scale_label(scales[worst])}."
        )
    if effect.rho_within_limits != rho:
        sentences.append(
            f"Where {effect.measure} was not at its limit yet: rho "
            f"{effect.rho_within_limits.mean:.3f} in the mean, "
            f"{effect.rho_within_limits.worst:.3f} at worst."
        )
    return sentences


def _range_sentences(figures: Figures) -> list[str]:
    if figures.clean_range is None:
        return ["The base model's own images already fail the checks at scale 0."]
    low, high = map(scale_label, figures.clean_range)
    tried_low, tried_high = scale_label(figures.scales[0]), scale_label(figures.scales[-1])
    if low == high:
        return ["Already the scales next to 0 are not clean."]
    if (low, high) == (tried_low, tried_high):
        return [f"Clean over all of {low} to {high}."]
    return [f"Clean from {low} to {high}; {tried_low} to {tried_high} was tried."]


def _region_sentence(region: Region) -> str:
    ratio = "and nothing" if region.ratio is None else f"{region.ratio:.1f} times as much as"
    where = scale_label(region.scale)
    return f"Inside the region images change {ratio} outside, at {where}."


def _preservation_sentences(figures: Figures) -> list[str]:
    judged = [kept for kept in figures.preservation if kept.least_within_2 is not None]
    sentences = []
    if judged:
        shares = ", ".join(f"{kept.label} in {kept.least_within_2:.0%}" for kept in judged)
        sentences.append(f"Unchanged within ±2: {shares} of samples.")
    sentences += [
        f"{kept.label} could not be read off {kept.num_undetermined} of "
        f"{figures.num_samples} base images."
        for kept in figures.preservation
        if kept.num_undetermined
    ]
    return sentences
