"""Numbers as one row of block characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

_BLOCKS = "▁▂▃▄▅▆▇█"
_NOT_FINITE = "✗"


def sparkline(values: Sequence[float], width: int) -> str:
    """Return values from left to right; a column is the mean of its values.

    A column that holds a value which is not finite shows ✗ instead.
    """
    if not values or width < 1:
        return ""
    num_columns, num_values = min(width, len(values)), len(values)
    edges = [i * num_values // num_columns for i in range(num_columns + 1)]
    columns = [values[first:last] for first, last in pairwise(edges)]
    means = [
        sum(column) / len(column) if all(map(math.isfinite, column)) else math.nan
        for column in columns
    ]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return _NOT_FINITE * len(means)
    least, span = min(finite), max(finite) - min(finite)
    return "".join(
        _BLOCKS[min(7, int(8 * (mean - least) / span)) if span > 0 else 3]
        if math.isfinite(mean)
        else _NOT_FINITE
        for mean in means
    )
