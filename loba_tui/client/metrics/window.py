"""A series as a chart draws it: least and greatest of each column of dots, and a smoothed line.

Two columns of dots stand in a cell of the terminal. However many rows a column covers, its extremes
and its values that are not finite are kept, so no spike is ever hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from loba_tui.client.metrics.blocks import Array, merged
from loba_tui.client.metrics.index import SeriesIndex

_BLOCKS_PER_COLUMN = 8
# So many mean lifetimes of a smoothed value's memory before the window are taken into it.
_WARM_UP = 4.0


@dataclass(frozen=True)
class Window:
    """A series between two steps, as columns.

    Attributes:
        first: The step at the left edge; last is the one at the right edge.
        least: (n,) of the finite values of a column, nan where it has none.
        greatest: (n,).
        smooth: (n,) exponential moving average at the end of the column; nan where it has none.
        num_bad: (n,) values that are not finite.
        last_value: The newest value of the whole series.
        last_smooth: The moving average at the right edge of the window.
    """

    first: float
    last: float
    least: Array
    greatest: Array
    smooth: Array
    num_bad: Array
    last_value: float | None = None
    last_smooth: float | None = None

    @property
    def total_bad(self) -> int:
        """Return how many values of the window are not finite."""
        return int(self.num_bad.sum())


def window(
    index: SeriesIndex,
    name: str,
    *,
    first: float,
    last: float,
    num_columns: int,
    smoothing: float = 0.0,
) -> Window:
    """Return a series between two steps.

    Args:
        name: One that the index does not have gives an empty window.
        last: The step at the right edge; above `first`.
        num_columns: Columns of dots.
        smoothing: What the moving average keeps of itself at each row; 0 means none.
    """
    nothing = np.full(num_columns, np.nan)
    empty = Window(first, last, nothing, nothing, nothing, np.zeros(num_columns))
    if name not in index.names or num_columns < 1 or last <= first:
        return empty
    edges, blocks = _blocks_of(index, name, first, last, num_columns, smoothing)
    # A block belongs to the column in which its first row stands.
    steps = index.steps_of(edges[:-1])
    columns = np.floor((steps - first) / (last - first) * num_columns).astype(int)
    columns = np.minimum(columns, num_columns - 1)
    average = _moving_average(blocks, smoothing) if smoothing > 0 else np.full(len(blocks), np.nan)
    inside = (columns >= 0) & (blocks[:, 3] + blocks[:, 4] > 0)
    blocks, columns, average = blocks[inside], columns[inside], average[inside]
    if not len(blocks):
        return empty
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    ends = np.append(starts[1:], len(columns)) - 1
    per_column = merged(blocks, starts)
    has_finite = per_column[:, 3] > 0

    def spread(values: Array, fill: float = np.nan) -> Array:
        """Return a value for each column of dots; those without a block keep `fill`."""
        found = np.full(num_columns, fill)
        found[columns[starts]] = values
        return found

    last_smooth = float(average[-1])
    return Window(
        first,
        last,
        least=spread(np.where(has_finite, per_column[:, 0], np.nan)),
        greatest=spread(np.where(has_finite, per_column[:, 1], np.nan)),
        smooth=spread(average[ends]),
        num_bad=spread(per_column[:, 4], 0.0),
        last_value=index.last_value(name),
        last_smooth=None if math.isnan(last_smooth) else last_smooth,
    )


def _blocks_of(
    index: SeriesIndex, name: str, first: float, last: float, num_columns: int, smoothing: float
) -> tuple[Array, Array]:
    """Return the blocks between two steps, after those that the moving average remembers."""
    begin, end = (int(row) for row in index.rows_of(np.array([first, np.nextafter(last, np.inf)])))
    most = num_columns * _BLOCKS_PER_COLUMN
    edges, blocks = index.blocks(name, begin, end, most)
    memory = math.ceil(_WARM_UP / (1.0 - smoothing)) if smoothing > 0 else 0
    early, before = index.blocks(name, max(0, begin - memory), begin, most)
    if len(blocks) and len(before):
        return np.concatenate([early[:-1], edges]), np.concatenate([before, blocks])
    return edges, blocks


def _moving_average(blocks: Array, smoothing: float) -> Array:
    """Return the average at the end of each block, corrected for its beginning as Adam's is.

    Within a block of many rows the mean stands for each of them.
    """
    total = weight = 0.0
    found = np.empty(len(blocks))
    sums, counts = blocks[:, 2].tolist(), blocks[:, 3].tolist()
    for i, (value_sum, count) in enumerate(zip(sums, counts, strict=True)):
        if count:
            keep = smoothing**count
            total = keep * total + (1.0 - keep) * (value_sum / count)
            weight = keep * weight + (1.0 - keep)
        found[i] = total / weight if weight else math.nan
    return found
