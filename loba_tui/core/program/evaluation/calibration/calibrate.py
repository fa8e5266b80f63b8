"""Calibrates a finished slider: which factor gives a scale the effect that was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from loba_tui.core.program.evaluation.calibration.looks import Looks
from loba_tui.core.program.evaluation.calibration.search import Found, Search, Side
from loba_tui.core.program.evaluation.slider_effect import Effect
from loba_tui.core.program.evaluation.slider_verdict import DEAD_CHANGE
from loba_tui.core.recipe.sections.calibrate import CalibrateSection
from loba_tui.core.text import counted
from loba_tui.core.units import scale_label

Outcome = Literal["reached", "short", "left"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The effect that a scale of an adapter was given, as report.json has it.

    Scales are those of the calibrated adapter. Effects are ratios against scale 0 where a ratio was
    asked for, differences otherwise, as measured on the calibration's own prompts.

    Attributes:
        at: The scale that was to have the effect, and minus it.
        asked: The ratio or the difference at `at`; None for the end of the range.
        outcome: "reached"; "short" where the range ends before, so that `at` is its end; "left"
            where the adapter was left as it was.
        factor: Number that the adapter was multiplied by.
        below: Effect at minus `at`; None where that side does not work.
        above: Effect at `at`.
        balance: Smaller over larger of the sides' effects, as logarithms or differences.
        scale_below: Where the lower side alone has the effect; None where it has it nowhere.
        scale_above: Where the upper side alone has the effect.
        range: Ends of what is monotone and unbroken, as far as it was followed.
        curve: Scales that were drawn, with their effects and whether images were whole.
        on_proof: Effects at minus `at` and at `at` on the proof's prompts; None until measured.
    """

    measure: str
    at: float
    kind: Literal["ratio", "difference", "saturation"]
    asked: float | None
    outcome: Outcome
    factor: float
    below: float | None
    above: float | None
    balance: float | None
    scale_below: float | None
    scale_above: float | None
    range: tuple[float, float]
    curve: tuple[tuple[float, float, bool], ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    num_images: int
    num_unet_rows: int
    on_proof: tuple[float | None, float | None] | None = None

    def proven(self, scales: Sequence[float], effect: Effect | None) -> Calibration:
        """Return it with what the proof has measured at the scale."""
        means = dict(zip(scales, effect.mean, strict=True)) if effect is not None else {}
        if not means:
            return self
        found = [self._shown_of(means[0.0], means.get(s)) for s in (-self.at, self.at)]
        return replace(self, on_proof=(found[0], found[1]))

    def _shown_of(self, before: float, after: float | None) -> float | None:
        if after is None or not math.isfinite(after) or not math.isfinite(before):
            return None
        if self.kind == "ratio":
            return after / before if before > 0 else None
        return after - before

    def summary(self) -> dict[str, str]:
        """Return it in a few short strings, fit for an adapter's metadata."""
        asked = self.kind if self.asked is None else f"{self.kind} {self.asked:g}"
        short = {
            "measure": self.measure,
            "at": f"{self.at:g}",
            "asked": asked,
            "outcome": self.outcome,
            "factor": f"{self.factor:.6g}",
            "range": " ".join(f"{end:.3g}" for end in self.range),
        }
        for name, effects in (
            ("measured", (self.below, self.above)),
            ("on_proof", self.on_proof or (None, None)),
        ):
            if any(effect is not None for effect in effects):
                short[name] = " ".join("?" if e is None else f"{e:.4g}" for e in effects)
        return short

    def sentences(self) -> tuple[str, ...]:
        """Return it in words."""
        asked = "the end of the range" if self.asked is None else self._shown(self.asked)
        cost = f"{self.num_images} images, {self.num_unet_rows:,} UNet rows"
        if self.outcome == "left":
            found = f"no unbroken scale gives {self.measure} {asked} or a tenth of it"
            if self.asked is None:
                found = f"{self.measure} does not move with the scale before images break"
            where = f"on {self._where}; its strength was left as it was ({cost})"
            return (f"Not calibrated: {found}, {where}.",)
        effects = f"{self._both(self.below, self.above)} on {self._where}"
        low, high = (scale_label(float(f"{end:.3g}")) for end in self.range)
        if self.outcome == "short":
            first = (
                f"{asked} is not reached before images break or nothing moves any more; "
                f"±{self.at:g} was made the end of that range: {self.measure} {effects}."
            )
        else:
            first = f"Calibrated to {asked} at ±{self.at:g}: {self.measure} {effects}."
        sentences = [
            first,
            f"Multiplied by {self.factor:.3g}; monotone and unbroken from {low} to {high}"
            f" ({cost}).",
        ]
        if self.balance is not None:
            sentences.append(f"Evenness of its two sides there: {self.balance:.2f}.")
        else:
            sentences.append("One side of 0 does not work, so the other alone was calibrated.")
        if self.on_proof is not None:
            sentences.append(f"On the proof's prompts: {self._both(*self.on_proof)}.")
        return tuple(sentences)

    @property
    def _where(self) -> str:
        prompts = counted(len(self.prompts), "prompt")
        return f"{prompts} of its own with {counted(len(self.seeds), 'seed')}"

    def _both(self, below: float | None, above: float | None) -> str:
        parts = [
            f"{self._shown(effect)} at {scale_label(scale)}"
            for effect, scale in ((below, -self.at), (above, self.at))
            if effect is not None
        ]
        return " and ".join(parts) or "not measured"

    def _shown(self, effect: float) -> str:
        is_ratio = self.kind == "ratio"
        return f"{effect:.3g}\N{MULTIPLICATION SIGN}" if is_ratio else f"{effect:+.3g}"


def calibrate(section: CalibrateSection, looks: Looks) -> Calibration:
    """Find the factor of an attached adapter; nothing is changed yet."""
    wanted = _wanted(section)
    dead = DEAD_CHANGE * (1.0 if section.ratio is not None else looks.size)
    return described(section, Search(looks, wanted, least=dead).run(), looks)


def _wanted(section: CalibrateSection) -> float | None:
    return math.log(section.ratio) if section.ratio is not None else section.difference


def described(section: CalibrateSection, found: Found, looks: Looks) -> Calibration:
    """Return what a search has found, in the scales of the calibrated adapter."""
    factor = 1.0 if found.scale is None else found.scale / section.at
    effects = [_effect(found, side) for side in found.sides]
    wanted = _wanted(section)
    # Scales of the search are those of the adapter as it was.
    own = [None if wanted is None else side.scale_of(abs(wanted)) for side in found.sides]
    shown = np.exp if section.ratio is not None else float
    measure = looks.recipe.proof.measure
    assert measure is not None, "the recipe's schema asks for one"
    outcome: Outcome = "reached" if found.is_reached else "short"
    return Calibration(
        measure=measure.name,
        at=section.at,
        kind="saturation" if wanted is None else "ratio" if section.ratio else "difference",
        asked=section.ratio if section.ratio is not None else section.difference,
        outcome="left" if found.scale is None else outcome,
        factor=factor,
        below=None if effects[0] is None else float(shown(effects[0])),
        above=None if effects[1] is None else float(shown(effects[1])),
        balance=_balance(effects[0], effects[1]),
        scale_below=None if own[0] is None else -own[0] / factor,
        scale_above=None if own[1] is None else own[1] / factor,
        range=(found.ends[0] / factor, found.ends[1] / factor),
        curve=tuple(
            (scale / factor, float(shown(seen.effect)), seen.is_whole)
            for scale, seen in sorted(found.seen.items())
        ),
        prompts=tuple(looks.grid.prompts),
        seeds=tuple(looks.grid.seeds),
        num_images=looks.num_images,
        num_unet_rows=looks.num_unet_rows,
    )


def _effect(found: Found, side: Side) -> float | None:
    if found.scale is None or not side.end:
        return None
    return found.seen[side.sign * found.scale].effect


def _balance(below: float | None, above: float | None) -> float | None:
    if below is None or above is None:
        return None
    down, up = abs(below), abs(above)
    return min(down, up) / max(down, up) if max(down, up) else None
