"""Blocks of a series: least, greatest, sum and number of the finite values, number of the others.

However many values a block stands for, its extremes and its values that are not finite are kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BLOCK = 64
NUM_FIELDS = 5
# Says that a row has no such value: a NaN that no computation makes, told by its bits.
MISSING = np.array([0x7FF8_10BA_0000_0001], np.uint64).view(np.float64)[0]


def is_missing(values: Array) -> Array:
    """Say which values are none: their row has no such series."""
    return values.view(np.uint64) == MISSING.view(np.uint64)


def summed(values: Array, edges: Array) -> Array:
    """Return blocks (n, 5) of values that begin at `edges`; see `SeriesIndex.blocks`."""
    finite = np.isfinite(values)
    bad = ~finite & ~is_missing(values)
    zeroed = np.where(finite, values, 0.0)
    return np.stack(
        [
            np.minimum.reduceat(np.where(finite, values, np.inf), edges),
            np.maximum.reduceat(np.where(finite, values, -np.inf), edges),
            np.add.reduceat(zeroed, edges),
            np.add.reduceat(finite.astype(np.float64), edges),
            np.add.reduceat(bad.astype(np.float64), edges),
        ],
        axis=1,
    )


def merged(blocks: Array, edges: Array) -> Array:
    """Return fewer blocks, each of those that begin at `edges`."""
    least = np.minimum.reduceat(blocks[:, 0], edges)
    greatest = np.maximum.reduceat(blocks[:, 1], edges)
    return np.stack(
        [least, greatest, *(np.add.reduceat(blocks[:, i], edges) for i in (2, 3, 4))], axis=1
    )
