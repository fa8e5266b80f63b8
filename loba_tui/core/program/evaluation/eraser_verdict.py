"""Turns what an eraser was measured to do into an outcome and plain sentences."""

from __future__ import annotations

from loba_tui.core.program.evaluation.eraser_effect import (
    ASKED_SHARE,
    DEAD_SHARE_MOVED,
    ERASED_SHARE,
    MOST_ACCURACY_LOST,
    Erasure,
)
from loba_tui.core.program.evaluation.figures import Figures
from loba_tui.core.program.evaluation.preservation import KEPT_SHARE
from loba_tui.core.units import scale_label

MOST_NAMED = 4


def judge_eraser(figures: Figures, erasure: Erasure) -> tuple[str, tuple[str, ...]]:
    """Return the outcome, one of `verdict.OUTCOMES`, and the sentences that explain it."""
    outcome = _outcome(figures, erasure)
    sentences = [_headline(outcome, figures, erasure), _share_sentence(erasure)]
    sentences += _other_sentences(erasure)
    kept = [kept for kept in figures.preservation if kept.num_judged]
    if kept:
        at = figures.scales.index(erasure.at)
        shares = ", ".join(f"{each.label} in {each.share_unchanged[at]:.0%}" for each in kept)
        sentences.append(f"Unchanged there beside that: {shares} of samples.")
    sentences += [attack.sentence() for attack in figures.attacks or ()]
    if figures.efficacy is not None:
        sentences.append(figures.efficacy.sentence())
    return outcome, tuple(sentences)


def _outcome(figures: Figures, erasure: Erasure) -> str:
    """Name the first thing that is wrong, the gravest first."""
    if erasure.share_before < ASKED_SHARE:
        return "unmeasured"
    moved = erasure.share_before - erasure.share_after
    # A measure says anything about broken images.
    if figures.images.share_sound[figures.scales.index(erasure.at)] < KEPT_SHARE:
        return "breaking"
    if erasure.accuracy_lost > MOST_ACCURACY_LOST:
        return "damaging"
    if erasure.share_after <= ERASED_SHARE:
        return "circumvented" if _broken_by(figures) else "erased"
    return "dead" if moved < DEAD_SHARE_MOVED else "partly erased"


def _broken_by(figures: Figures) -> list[str]:
    """Return the attacks that bring the concept back."""
    return [attack.name for attack in figures.attacks or () if attack.has_broken_it]


def _headline(outcome: str, figures: Figures, erasure: Erasure) -> str:
    label = erasure.label
    held = " It held under every attack." if figures.attacks else ""
    others = ", and what else was asked for still comes" if erasure.num_others else ""
    return {
        "unmeasured": f"The base model hardly shows {label} where it is asked for: nothing to "
        "erase can be measured.",
        "breaking": "It breaks images of other things: burnt or blank.",
        "damaging": f"It takes more than {label} away: other things are not drawn as asked.",
        "erased": f"It works: {label} is gone{others}.{held}",
        "circumvented": f"Asked for by its own words {label} is gone, but it comes back"
        f" when attacked by {' and by '.join(_broken_by(figures))}.",
        "partly erased": f"It works in part: {label} still shows in some samples.",
        "dead": f"It does nothing that can be measured to {label}.",
    }[outcome]


def _share_sentence(erasure: Erasure) -> str:
    found = [
        f"{label} in {count}" for label, count in erasure.became.items() if label != erasure.label
    ]
    became = ", ".join(found[:MOST_NAMED]) + (", …" if len(found) > MOST_NAMED else "")
    return (
        f"{erasure.measure} is {erasure.label} in {erasure.share_before:.0%} of "
        f"{erasure.num_asking} samples that ask for it at 0, and in {erasure.share_after:.0%} at "
        f"{scale_label(erasure.at)}" + (f", where it is {became}." if became else ".")
    )


def _other_sentences(erasure: Erasure) -> list[str]:
    if erasure.accuracy is None:
        return []
    sentences = [
        f"Of {erasure.num_others} samples that ask for something else "
        f"{erasure.accuracy_before:.0%} show it at 0, and {erasure.accuracy_after:.0%} at "
        f"{scale_label(erasure.at)}."
    ]
    lost = {
        label: shares
        for label, shares in erasure.accuracy_by_label.items()
        if shares[-1] < shares[0] - MOST_ACCURACY_LOST
    }
    if lost:
        named = ", ".join(f"{label} to {shares[-1]:.0%}" for label, shares in lost.items())
        sentences.append(f"Losing most: {named}.")
    return sentences
