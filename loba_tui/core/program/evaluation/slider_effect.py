"""The measured effect of a slider: its curve over scales, rank correlations and symmetry.

Pure numpy on an array of measured values (num_samples, num_scales); a sample is one prompt at one
seed, NaN is "the measure found nothing there".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REFERENCE_SCALE = 2.0
"""Ratios and symmetry are given at the sampled scales nearest to plus and minus this one."""

TIE_TOLERANCE = 1e-4
"""Values nearer than this share of a sample's largest value are ties: float noise is no effect."""

LIMIT_TOLERANCE = 0.02
"""A value this near to a limit of its measure (as a share of the limits' span) is at the limit."""

MIN_SCALES_FOR_RHO = 3


@dataclass(frozen=True)
class Measurement:
    """Values of one measure; `values` is (num_samples, num_scales) with NaN for "nothing found".

    `limits` are the least and largest value that the measure can give, None where there is none.
    """

    name: str
    values: np.ndarray
    unit: str = ""
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class RhoSummary:
    """Spearman's rho of value against scale, sample by sample.

    A sample that never moves (`num_constant`), or that has too few measured scales
    (`num_too_few`), enters mean and worst as 0: no evidence of an effect is no effect.
    """

    mean: float
    worst: float
    num_samples: int
    num_constant: int
    num_too_few: int


@dataclass(frozen=True)
class Side:
    """Effect on one side of 0; `change` and `ratio` compare means at `scale` with scale 0.

    `ratio` is None where a mean is not positive. `rho` (of value and scale, mean over samples) and
    "monotone" are about this side alone, 0 included; monotone is in the direction of the whole
    curve. `num_at_limit` samples could not move further in this direction to begin with.
    """

    scale: float
    change: float
    ratio: float | None
    rho: float
    monotone: bool
    share_monotone: float
    num_at_limit: int


@dataclass(frozen=True)
class Effect:
    """Effect curve and figures of one measure, in its `unit`; `mean` and quartiles per scale."""

    measure: str
    unit: str
    mean: tuple[float, ...]
    quartile_low: tuple[float, ...]
    median: tuple[float, ...]
    quartile_high: tuple[float, ...]
    share_present: tuple[float, ...]
    rho: RhoSummary
    rho_within_limits: RhoSummary
    rho_of_means: float | None
    below: Side | None
    above: Side | None
    balance: float | None
    """Smaller over larger of the two sides' log-ratios (changes, where no ratio): 1 is even."""
    relative_change: float
    """Largest |change| of a side, over the larger of |mean| and spread of the base's values;
    where both are 0, over the measure's whole range."""


def spearman(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Return Spearman's rank correlation, equal values sharing their mean rank; NaN if constant."""
    if len(x) == 0:
        return float("nan")
    rank_x, rank_y = mean_ranks(x), mean_ranks(y)
    rank_x, rank_y = rank_x - rank_x.mean(), rank_y - rank_y.mean()
    norm = float(np.sqrt((rank_x @ rank_x) * (rank_y @ rank_y)))
    return float(rank_x @ rank_y) / norm if norm > 0 else float("nan")


def mean_ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return ranks from 1; equal values get the mean of the ranks that they take up together."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def measure_effect(scales: Sequence[float], measured: Measurement) -> Effect:
    """Compute the effect of the scale on a measured value; scales ascend, 0 among them."""
    grid = np.asarray(scales, dtype=float)
    values = np.asarray(measured.values, dtype=float)
    with_ties = _tie(values)
    base = base_index(scales)
    mean = _column_means(values)
    of_means = spearman(grid[np.isfinite(mean)], mean[np.isfinite(mean)])
    direction = -1 if of_means < 0 else 1
    below = _side(grid, values, measured.limits, side=-1, direction=direction)
    above = _side(grid, values, measured.limits, side=+1, direction=direction)
    changes = [abs(side.change) for side in (below, above) if side and np.isfinite(side.change)]
    size = max(abs(mean[base]), float(np.nanstd(values[:, base])) if _any(values[:, base]) else 0.0)
    if size == 0 and _any(mean):
        # Where the base has nothing of it at all, any share of what there can be is a change.
        limits = measured.limits or (0.0, float(np.nanmax(np.abs(mean))))
        size = limits[1] - limits[0]
    low, median, high = (_column_quantiles(values, q) for q in (0.25, 0.5, 0.75))
    return Effect(
        measure=measured.name,
        unit=measured.unit,
        mean=tuple(mean.tolist()),
        quartile_low=low,
        median=median,
        quartile_high=high,
        share_present=tuple(np.isfinite(values).mean(0).tolist()),
        rho=_rho(grid, with_ties),
        rho_within_limits=_rho(grid, _free_to_move(grid, with_ties, measured.limits, direction)),
        rho_of_means=of_means if np.isfinite(of_means) else None,
        below=below,
        above=above,
        balance=_balance(below, above),
        relative_change=max(changes, default=0.0) / size if size > 0 else 0.0,
    )


def base_index(scales: Sequence[float]) -> int:
    """Return where scale 0 is; every comparison is with the base model itself."""
    assert 0 in scales, "a report compares with scale 0"
    assert list(scales) == sorted(set(scales)), "scales ascend"
    return list(scales).index(0)


def _tie(values: np.ndarray) -> np.ndarray:
    """Round every sample to multiples of the tie tolerance."""
    present = np.where(np.isfinite(values), np.abs(values), 0.0)
    step = TIE_TOLERANCE * present.max(axis=1, keepdims=True)
    step = np.where(step > 0, step, 1.0)
    return np.round(values / step) * step


def _rho(grid: np.ndarray, values: np.ndarray) -> RhoSummary:
    """Summarise the samples' rank correlations; constant and nearly unmeasured ones count as 0."""
    rhos, num_constant, num_too_few = [], 0, 0
    for sample in values:
        present = np.isfinite(sample)
        rho = spearman(grid[present], sample[present]) if present.sum() > 1 else float("nan")
        if present.sum() < min(MIN_SCALES_FOR_RHO, len(grid)):
            num_too_few += 1
            rho = 0.0
        elif not np.isfinite(rho):
            num_constant += 1
            rho = 0.0
        rhos.append(rho)
    # "Worst" is against the direction in which the samples move on the whole.
    mean = float(np.mean(rhos)) if rhos else 0.0
    worst = (min if mean >= 0 else max)(rhos, default=0.0)
    return RhoSummary(mean, float(worst), len(rhos), num_constant, num_too_few)


def _free_to_move(
    grid: np.ndarray, values: np.ndarray, limits: tuple[float, float] | None, direction: int
) -> np.ndarray:
    """Blank what lies beyond the scale at which a sample reaches the limit it is moved towards.

    Going outwards from 0, the scale that reaches the limit stays (getting there is an effect);
    those after it cannot move further and say nothing about the slider. Samples of which too
    little is left are left out: (fewer samples, num_scales).
    """
    if limits is None:
        return values
    free = values.copy()
    base = int(np.argmin(np.abs(grid)))
    for sample in free:
        for side, outwards in ((1, range(base, len(grid))), (-1, range(base, -1, -1))):
            reached = False
            for index in outwards:
                if reached:
                    sample[index] = np.nan
                elif _limit_reached(sample[index], limits) == _limit_ahead(side, direction):
                    reached = True
    enough = np.isfinite(free).sum(1) >= min(MIN_SCALES_FOR_RHO, len(grid))
    # Samples that were hardly measured to begin with go on counting as no effect.
    return free[enough | (np.isfinite(values).sum(1) < min(MIN_SCALES_FOR_RHO, len(grid)))]


def _limit_ahead(side: int, direction: int) -> int:
    """Return the limit, 0 lower or 1 upper, that a side of 0 moves towards."""
    return 1 if side * direction > 0 else 0


def _limit_reached(value: float, limits: tuple[float, float]) -> int | None:
    """Return 0 at the lower limit, 1 at the upper, None between them or where nothing is."""
    margin = LIMIT_TOLERANCE * (limits[1] - limits[0])
    if value <= limits[0] + margin:
        return 0
    return 1 if value >= limits[1] - margin else None


def _side(
    grid: np.ndarray,
    values: np.ndarray,
    limits: tuple[float, float] | None,
    *,
    side: int,
    direction: int,
) -> Side | None:
    """Describe one side of 0, above (1) or below (-1); None where none was sampled.

    The direction is 1 where the value rises with the scale on the whole, else -1.
    """
    outwards = np.argsort(side * grid)
    outwards = outwards[side * grid[outwards] >= 0]
    if len(outwards) < 2:
        return None
    base = outwards[0]
    at = min(outwards[1:], key=lambda index: abs(abs(grid[index]) - REFERENCE_SCALE))
    both = np.isfinite(values[:, base]) & np.isfinite(values[:, at])
    before = float(values[both, base].mean()) if both.any() else float("nan")
    after = float(values[both, at].mean()) if both.any() else float("nan")
    with_ties = _tie(values)[:, outwards]
    steps = direction * side * np.diff(with_ties, axis=1)
    steps_of_means = direction * side * np.diff(_column_means(with_ties))
    wanted = _limit_ahead(side, direction)
    at_limit = [limits and _limit_reached(value, limits) == wanted for value in values[:, base]]
    return Side(
        scale=float(grid[at]),
        change=after - before,
        ratio=after / before if before > 0 and after > 0 else None,
        rho=_rho(grid[outwards], with_ties).mean,
        monotone=bool(np.all(steps_of_means > 0)),
        share_monotone=float(np.mean(np.all(steps > 0, axis=1))),
        num_at_limit=sum(map(bool, at_limit)),
    )


def _balance(below: Side | None, above: Side | None) -> float | None:
    """Return how even the two sides are, 0 (one does nothing, or the wrong thing) to 1."""
    if below is None or above is None:
        return None
    if below.ratio is not None and above.ratio is not None:
        down, up = -float(np.log(below.ratio)), float(np.log(above.ratio))
    else:
        down, up = -below.change, above.change
    larger = max(abs(up), abs(down))
    if not np.isfinite(larger) or larger == 0:
        return None
    return max(0.0, min(abs(up), abs(down)) / larger * float(np.sign(up * down)))


def _any(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).any())


def _column_means(values: np.ndarray) -> np.ndarray:
    """Return means over samples, NaN (without numpy's warning) where nothing was measured."""
    return np.array([np.nanmean(c) if _any(c) else np.nan for c in values.T])


def _column_quantiles(values: np.ndarray, q: float) -> tuple[float, ...]:
    return tuple(float(np.nanquantile(c, q)) if _any(c) else float("nan") for c in values.T)
