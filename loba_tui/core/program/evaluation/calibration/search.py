"""Finds the range over which a slider works, and the scale at which it has a wanted effect.

Pure numbers: what images show at a scale is told by a function. A side of 0 works as far as images
stay whole and each step outwards still moves the measure. Past that the effect is saturated, and
only quality is lost; FreeSliders (https://arxiv.org/abs/2511.00103) takes that point for the end of
a slider too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

FIRST_SCALE = 1.0
MOST_SCALE = 8.0
LEAST_SCALE = 1 / 16
SATURATED_SLOPE = 0.1
"""A step outwards of less than this share of the side's steepest slope moves nothing any more."""

NUM_BISECTIONS = 2
"""How often the place between the last good and the first bad scale is halved."""

TOLERANCE = 0.02
NUM_REFINEMENTS = 3
"""A scale is looked for until its effect is this near (as a share), or for so many looks."""

ENOUGH = 2.0
"""The range is not followed further where the effect is this many times the wanted one."""

LEAST_SHARE = 0.1
"""An adapter that does not even reach this share of the wanted effect is left as it is."""


@dataclass(frozen=True)
class Seen:
    """The effect of a scale and the state of its images.

    Attributes:
        effect: Of the measure against scale 0, 0 there; NaN where nothing could be measured.
        is_whole: Whether images are sound, what is measured is there, and labels are kept.
    """

    effect: float
    is_whole: bool


Look = Callable[[Sequence[float]], Sequence[Seen]]
"""Draws images at scales and returns what each shows."""


@dataclass
class Side:
    """One side of 0, looked at from 0 outwards; gains are effects in the slider's direction.

    Attributes:
        sign: 1 above 0, −1 below.
        good: Scales without their sign up to which it works, ascending, and their gains.
        bad: The nearest scale that was found not to work; None where there was none.
    """

    sign: int
    good: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 0.0)])
    bad: float | None = None

    @property
    def end(self) -> float:
        """How far it is known to work."""
        return self.good[-1][0]

    @property
    def gain(self) -> float:
        """The gain at its end."""
        return self.good[-1][1]

    def outwards(self) -> float | None:
        """Return the next scale by doubling, or by halving while none has been good yet."""
        if self.bad is None:
            scale = 2 * self.end or FIRST_SCALE
            return scale if scale <= MOST_SCALE else None
        scale = self.bad / 2
        return scale if self.end == 0 and scale >= LEAST_SCALE else None

    def between(self) -> float | None:
        """Return the middle of the last good and the first bad scale; None where there is none."""
        return (self.end + self.bad) / 2 if self.bad is not None and self.end else None

    def take(self, scale: float, gain: float, is_whole: bool) -> None:
        """Note what a scale between the last good and the first bad one has shown."""
        slope = (gain - self.gain) / (scale - self.end)
        points = np.array(self.good)
        steepest = max((np.diff(points[:, 1]) / np.diff(points[:, 0])).tolist(), default=0.0)
        # NaN, of images without anything to measure, is no step either.
        if is_whole and slope > SATURATED_SLOPE * steepest:
            self.good.append((scale, gain))
        else:
            self.bad = scale

    def scale_of(self, gain: float) -> float | None:
        """Return the scale, without its sign, at which it has a gain; None beyond its end."""
        scales, gains = np.array(self.good).T
        return float(np.interp(gain, gains, scales)) if 0 < gain <= gains[-1] else None


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        scale: The scale that has the wanted effect, or comes nearest to it; None where there is
            none worth the name.
        is_reached: Whether the effect there is the wanted one, or the range's end was asked for.
        sides: Below 0 and above it.
        seen: Every scale that was looked at.
    """

    scale: float | None
    is_reached: bool
    sides: tuple[Side, Side]
    seen: dict[float, Seen]

    @property
    def ends(self) -> tuple[float, float]:
        """Ends of the range in which it works, 0 where a side does not."""
        return -self.sides[0].end, self.sides[1].end

    @property
    def used(self) -> list[Side]:
        """The sides that work at all; the effect is the mean of theirs."""
        return [side for side in self.sides if side.end]


class Search:
    """Looks for the range of a slider and for the scale of an effect.

    Args:
        look: Draws.
        wanted: The effect at the scale that is looked for, on the upper side; None looks for the
            range's end.
        least: A smaller effect at the range's end is none.
    """

    def __init__(self, look: Look, wanted: float | None, *, least: float) -> None:
        self._look = look
        self._wanted = wanted
        self._least = least if wanted is None else LEAST_SHARE * abs(wanted)
        self._direction = 0.0 if wanted is None else float(np.sign(wanted))
        self._sides = (Side(-1), Side(1))
        self._seen: dict[float, Seen] = {}

    def run(self) -> Found:
        """Return what was found."""
        self._go_out()
        if self._wanted is None:
            self._halve()
            return self._found(self._limit(), is_reached=True)
        if self._mean_gain(self._limit()) < abs(self._wanted):
            self._halve()
        limit = self._limit()
        reached = self._mean_gain(limit)
        if reached < (1 - TOLERANCE) * abs(self._wanted):
            return self._found(limit, is_reached=False)
        return self._found(self._refined(abs(self._wanted), limit), is_reached=True)

    def _found(self, scale: float, *, is_reached: bool) -> Found:
        works = scale > 0 and self._mean_gain(scale) >= self._least
        return Found(scale if works else None, works and is_reached, self._sides, self._seen)

    def _go_out(self) -> None:
        while True:
            nexts = [(side, side.outwards()) for side in self._sides if not self._has_enough(side)]
            if not self._step([(side, scale) for side, scale in nexts if scale is not None]):
                return

    def _has_enough(self, side: Side) -> bool:
        return self._wanted is not None and side.gain >= ENOUGH * abs(self._wanted)

    def _halve(self) -> None:
        for _ in range(NUM_BISECTIONS):
            nexts = [(side, side.between()) for side in self._sides]
            self._step([(side, scale) for side, scale in nexts if scale is not None])

    def _step(self, wanted: Sequence[tuple[Side, float]]) -> bool:
        """Look at a scale of each side and note it; tell whether there was any."""
        self._see([side.sign * scale for side, scale in wanted])
        if wanted and not self._direction:
            # Both sides are at the same scale until one of them has worked.
            _, scale = wanted[0]
            rise = self._seen[scale].effect - self._seen[-scale].effect
            self._direction = float(np.nan_to_num(np.sign(rise)))
        for side, scale in wanted:
            seen = self._seen[side.sign * scale]
            side.take(scale, self._gain(side, scale), seen.is_whole)
        return bool(wanted)

    def _see(self, scales: Sequence[float]) -> None:
        missing = [scale for scale in scales if scale not in self._seen]
        if missing:
            self._seen.update(zip(missing, self._look(missing), strict=True))

    def _gain(self, side: Side, scale: float) -> float:
        return self._direction * side.sign * self._seen[side.sign * scale].effect

    def _limit(self) -> float:
        """Return the largest scale at which all sides that work do so."""
        return min((side.end for side in self._sides if side.end), default=0.0)

    def _mean_gain(self, scale: float) -> float:
        """Return the mean of the sides that work, which are looked at where they were not."""
        used = [side for side in self._sides if side.end]
        if not used:
            return 0.0
        self._see([side.sign * scale for side in used])
        return float(np.mean([self._gain(side, scale) for side in used]))

    def _refined(self, wanted: float, limit: float) -> float:
        """Return the scale nearest to the wanted effect, between looks on both of its sides."""
        curve = {0.0: 0.0, limit: self._mean_gain(limit)}
        signs = [side.sign for side in self._sides if side.end]
        for scale in {abs(scale) for scale in self._seen}:
            if scale < limit and all(sign * scale in self._seen for sign in signs):
                curve[scale] = self._mean_gain(scale)
        for _ in range(NUM_REFINEMENTS):
            best = min(curve, key=lambda scale: abs(curve[scale] - wanted))
            if abs(curve[best] - wanted) <= TOLERANCE * wanted:
                return best
            scales = sorted(curve)
            above = next(n for n, scale in enumerate(scales) if curve[scale] >= wanted)
            low, high = scales[above - 1], scales[above]
            share = (wanted - curve[low]) / (curve[high] - curve[low])
            middle = low + share * (high - low)
            curve[middle] = self._mean_gain(middle)
        return min(curve, key=lambda scale: abs(curve[scale] - wanted))
