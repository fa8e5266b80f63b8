"""One chart in braille dots: extremes of every column, a smoothed line, marks of events.

A value that is not finite is a ✗ in the top row of its column; on a logarithmic axis a value that
is not positive is a v in the bottom row. Nothing that was recorded is left out without a sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size

from loba_tui.widgets.line import plain
from loba_tui.widgets.tones import SERIES_TONES

LABEL_WIDTH = 8
_GIVE_WAY = 6
_SIGNS = ("━", "╌", "┄", "┈", "·")
# Bits of a braille cell by column and row of dots, from the top.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


@dataclass(frozen=True)
class Curve:
    """The part of a series that one run has, as columns of dots; nan where there is nothing."""

    least: Sequence[float]
    greatest: Sequence[float]
    smooth: Sequence[float] = ()
    num_bad: Sequence[float] = ()


@dataclass(frozen=True)
class ChartData:
    """All that a chart shows.

    Attributes:
        facts: Beside the title, such as the last value.
        curves: The run's own first.
        marks: Letter of the event at a cell, counted from the left of the plot.
        ends: What stands at the left and right end of the axis.
    """

    title: str
    facts: str = ""
    curves: tuple[Curve, ...] = ()
    is_log: bool = False
    is_bad: bool = False
    marks: Mapping[int, str] = field(default_factory=dict)
    ends: tuple[str, str] = ("", "")


@dataclass
class _Cell:
    dots: int = 0
    tone: str = ""
    sign: str = ""


class _Plot:
    """Cells of a plot while they are filled."""

    def __init__(self, width: int, height: int, low: float, high: float, is_log: bool) -> None:
        self.width, self.height, self.is_log = width, height, is_log
        self._low, self._high = _axis(low, is_log), _axis(high, is_log)
        self.cells = [[_Cell() for _ in range(width)] for _ in range(height)]

    def row(self, value: float) -> int:
        """Return the row of dots of a value, from the bottom."""
        num_rows = self.height * 4
        span = self._high - self._low
        if span <= 0:
            # In the row of cells that has the label.
            return num_rows - 1 - (self.height // 2 * 4 + 1)
        share = (_axis(value, self.is_log) - self._low) / span
        return max(0, min(num_rows - 1, round(share * (num_rows - 1))))

    def dot(self, x: int, y: int, tone: str) -> None:
        """Set a dot; y counts rows of dots from the bottom."""
        top = self.height * 4 - 1 - y
        cell = self.cells[top // 4][x // 2]
        cell.dots |= _DOTS[x % 2][top % 4]
        cell.tone = tone

    def span(self, x: int, first: int, last: int, tone: str) -> None:
        """Set the dots of a column between two rows."""
        for y in range(min(first, last), max(first, last) + 1):
            self.dot(x, y, tone)


def _axis(value: float, is_log: bool) -> float:
    return math.log10(value) if is_log else value


def draw(data: ChartData, width: int, height: int) -> list[list[tuple[str, str]]]:
    """Return rows of (text, tone) within this size: a title, the plot with its labels, the axis."""
    title = [(plain(data.title), "strong")]
    if data.facts:
        title.append(("  " + plain(data.facts), "bad" if data.is_bad else ""))
    rows = [cut(title, width)]
    plot_width, plot_height = width - LABEL_WIDTH - 1, height - 2
    if plot_width < 4 or plot_height < 1:
        return rows[:height]
    bounds = _bounds(data)
    if bounds is None:
        label = "nothing to draw yet" if not data.is_bad else "no finite value"
        rows += [[("", "")] for _ in range(plot_height)]
        rows[1 + plot_height // 2] = cut([(" " * (LABEL_WIDTH + 1) + label, "dim")], width)
        return [*rows, _axis_row(data, plot_width)]
    low, high = bounds
    plot = _Plot(plot_width, plot_height, low, high, data.is_log)
    for number, curve in reversed(list(enumerate(data.curves))):
        _draw_curve(plot, curve, number)
    labels = {0: _label(high), plot_height - 1: _label(low)}
    if low == high:
        labels = {plot_height // 2: _label(low)}
    elif plot_height >= 5:
        middle = math.sqrt(low * high) if data.is_log else (low + high) / 2
        labels[plot_height // 2] = _label(middle)
    for y, cells in enumerate(plot.cells):
        label = labels.get(y, "").rjust(LABEL_WIDTH)
        row = [(label, "dim"), ("┤" if y in labels else "│", "dim")]
        rows.append(row + _runs(cells, data.marks))
    return [*rows, _axis_row(data, plot_width)]


def _bounds(data: ChartData) -> tuple[float, float] | None:
    ends = [
        value
        for curve in data.curves
        for values in (curve.least, curve.greatest)
        for value in values
        if math.isfinite(value) and (value > 0 or not data.is_log)
    ]
    return (min(ends), max(ends)) if ends else None


def _draw_curve(plot: _Plot, curve: Curve, number: int) -> None:
    tone = SERIES_TONES[min(number, len(SERIES_TONES) - 1)]
    before: tuple[int, int, int] | None = None
    for x, (least, greatest) in enumerate(zip(curve.least, curve.greatest, strict=True)):
        if x // 2 >= plot.width:
            break
        bad = bool(curve.num_bad[x]) if x < len(curve.num_bad) else False
        if bad:
            plot.cells[0][x // 2].sign = "✗"
        if plot.is_log and least <= 0:
            plot.cells[-1][x // 2].sign = "v"
        if not math.isfinite(greatest) or (plot.is_log and greatest <= 0):
            before = None if bad else before
            continue
        bottom = least if not plot.is_log or least > 0 else greatest
        first, last = plot.row(bottom), plot.row(greatest)
        if before is not None:
            _connect(plot, before, (x, first, last), tone, number)
        if number == 0 or x % (number + 1) == 0 or first != last:
            plot.span(x, first, last, tone)
        before = (x, first, last)
    _draw_smooth(plot, curve, "smooth" if number == 0 else tone)


def _connect(
    plot: _Plot, before: tuple[int, int, int], now: tuple[int, int, int], tone: str, number: int
) -> None:
    """Draw a line from the span of one column to that of the next that has something."""
    x0, low0, high0 = before
    x1, low1, high1 = now
    if x1 - x0 == 1:
        # Close the gap between the two spans on the newer column.
        if low1 > high0 + 1:
            plot.span(x1, high0 + 1, low1, tone)
        elif high1 < low0 - 1:
            plot.span(x1, high1, low0 - 1, tone)
        return
    start, end = (low0 + high0) / 2, (low1 + high1) / 2
    y = round(start)
    for x in range(x0 + 1, x1 + 1):
        last, y = y, round(start + (end - start) * (x - x0) / (x1 - x0))
        if not number or x % (number + 1) == 0:
            plot.span(x, last + (y > last) - (y < last), y, tone)


def _draw_smooth(plot: _Plot, curve: Curve, tone: str) -> None:
    before: tuple[int, int] | None = None
    for x, value in enumerate(curve.smooth):
        if x // 2 >= plot.width:
            break
        if not math.isfinite(value) or (plot.is_log and value <= 0):
            continue
        y = plot.row(value)
        if before is not None:
            x0, y0 = before
            for between in range(x0 + 1, x):
                plot.dot(between, round(y0 + (y - y0) * (between - x0) / (x - x0)), tone)
            plot.span(x, y0 + (y > y0) - (y < y0), y, tone)
        plot.dot(x, y, tone)
        before = (x, y)


def _runs(cells: Sequence[_Cell], marks: Mapping[int, str]) -> list[tuple[str, str]]:
    """Return a row's cells as few pieces of text."""
    found: list[tuple[str, str]] = []
    for x, cell in enumerate(cells):
        if cell.sign:
            piece = (cell.sign, "bad")
        elif cell.dots:
            piece = (chr(0x2800 + cell.dots), cell.tone)
        else:
            piece = ("┊", "dim") if x in marks else (" ", "")
        if found and found[-1][1] == piece[1]:
            found[-1] = (found[-1][0] + piece[0], piece[1])
        else:
            found.append(piece)
    return found


def _axis_row(data: ChartData, width: int) -> list[tuple[str, str]]:
    line = ["─"] * width
    for x, letter in data.marks.items():
        if 0 <= x < width:
            line[x] = letter
    left, right = (plain(end) for end in data.ends)
    if len(left) + len(right) + 4 <= width:
        # A label gives way to the letters of events, which stand where they happened.
        for label, places in (
            (left, range(_GIVE_WAY)),
            (right, range(width - len(right), width - len(right) - _GIVE_WAY, -1)),
        ):
            for x in places:
                if set(line[x : x + len(label)]) <= {"─"}:
                    line[x : x + len(label)] = label
                    break
    return [(" " * LABEL_WIDTH + "└", "dim"), ("".join(line), "dim")]


def _label(value: float) -> str:
    """Return a number in at most LABEL_WIDTH characters."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.4g}"


def cut(pieces: Sequence[tuple[str, str]], width: int) -> list[tuple[str, str]]:
    """Return pieces of text cut to a width."""
    found, room = [], width
    for text, tone in pieces:
        taken = cell_len(text)
        if taken > room:
            found.append((set_cell_size(text, max(0, room)), tone))
            break
        found.append((text, tone))
        room -= taken
    return found


def shortened(name: str, width: int) -> str:
    """Return a run's name with its middle left out: the end tells runs of one recipe apart."""
    return name if len(name) <= width else f"{name[: width - 5]}…{name[-4:]}"


def legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return what tells the curves of several runs apart: a sign and a tone for each."""
    pieces: list[tuple[str, str]] = []
    for number, name in enumerate(names):
        index = min(number, len(SERIES_TONES) - 1)
        pieces += [(f" {_SIGNS[index] * 2} ", SERIES_TONES[index]), (plain(name), "")]
    return pieces
