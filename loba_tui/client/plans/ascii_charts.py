"""Charts as lines of plain text: no colour, no escape sequence, ASCII where there is no more."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from loba_tui.core.text import clean

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_LEFTWARD = " ▏▎▍▌▋▊▉█"
_LABEL_WIDTH = 10
_NEEDED = "▁█▏│└─…"


@dataclass(frozen=True)
class Canvas:
    """How many columns wide a chart may be, and whether of block characters or # and + and -."""

    width: int
    is_unicode: bool

    @classmethod
    def of(cls, stream: TextIO) -> Canvas:
        """Return what fits a stream: the terminal's width, 80 columns where there is none."""
        width = shutil.get_terminal_size((80, 24)).columns if stream.isatty() else 80
        try:
            _NEEDED.encode(stream.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return cls(max(20, min(width, 100)), False)
        return cls(max(20, min(width, 100)), True)

    def text(self, text: object) -> str:
        """Return foreign text so that it can be written here, cut to the width."""
        plain = clean(text)
        if not self.is_unicode:
            plain = plain.encode("ascii", "replace").decode()
        if len(plain) <= self.width:
            return plain
        return plain[: self.width - 1] + ("…" if self.is_unicode else ">")

    def columns(
        self,
        values: Sequence[float | None],
        *,
        ends: tuple[str, str],
        height: int = 5,
        is_log: bool = False,
    ) -> list[str]:
        """Return values from left to right as columns over an axis.

        Args:
            values: None leaves a gap. What is drawn for several values is their greatest.
            ends: What the axis says at its left and right end.
            height: Lines without the axis.
            is_log: Draw logarithms, from the least to the greatest value; else from 0.
        """
        width = self.width - _LABEL_WIDTH - 3
        if not any(value is not None for value in values):
            return [self.text("  nothing to draw")]
        shown = _resample(values, width)
        known = [value for value in shown if value is not None and (value > 0 or not is_log)]
        top = max(known, default=0.0)
        bottom = min(known, default=0.0) if is_log else min(0.0, *known, 0.0)
        heights = [_height(value, bottom, top, is_log) * height for value in shown]
        labels = {0: f"{top:.3g}", height - 1: f"{bottom:.3g}"}
        wall, corner, floor = "│└─" if self.is_unicode else "|+-"
        lines = []
        for row in range(height):
            cells = "".join(self._cell(tall - (height - 1 - row)) for tall in heights)
            lines.append(f"{labels.get(row, ''):>{_LABEL_WIDTH}} {wall}{cells}".rstrip())
        lines.append(f"{'':{_LABEL_WIDTH}} {corner}{floor * len(shown)}")
        gap = max(1, len(shown) - len(ends[0]) - len(ends[1]))
        lines.append(f"{'':{_LABEL_WIDTH}}  {ends[0]}{'':{gap}}{ends[1]}")
        return lines

    def bar(self, share: float, width: int) -> str:
        """Return a bar that fills this share of its width, padded to the width."""
        share = min(1.0, max(0.0, share))
        if not self.is_unicode:
            return ("#" * round(share * width)).ljust(width)
        eighths = round(share * width * 8)
        full, rest = divmod(eighths, 8)
        return ("█" * full + (_LEFTWARD[rest] if rest else "")).ljust(width)

    def _cell(self, filled: float) -> str:
        filled = min(1.0, max(0.0, filled))
        if not self.is_unicode:
            return "#" if filled >= 0.5 else " "
        return _EIGHTHS[round(filled * 8)]


def _resample(values: Sequence[float | None], width: int) -> list[float | None]:
    """Return one value a column: the greatest of those that share it, so that no peak is lost."""
    num_values = len(values)
    found: list[float | None] = []
    for column in range(width):
        first = column * num_values // width
        last = max(first + 1, (column + 1) * num_values // width)
        known = [value for value in values[first:last] if value is not None]
        found.append(max(known) if known else None)
    return found


def _height(value: float | None, bottom: float, top: float, is_log: bool) -> float:
    """Return a value's height as a share; the least of a logarithmic chart is still seen."""
    if value is None:
        return 0.0
    if is_log:
        if value <= 0 or bottom <= 0:
            return 0.0
        span = math.log(top) - math.log(bottom)
        return 0.05 + 0.95 * (math.log(value) - math.log(bottom)) / span if span else 1.0
    return (value - bottom) / (top - bottom) if top > bottom else 0.0
