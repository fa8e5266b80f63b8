"""Charts side by side, as many as fit; one of them is selected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from loba_tui.widgets.chart import LABEL_WIDTH, ChartData, cut, draw
from loba_tui.widgets.line import Lines

_LEAST_WIDTH, _LEAST_HEIGHT = 38, 8
_GAP = 1

Rows = list[list[tuple[str, str]]]


class ChartsPane(Lines, can_focus=True):
    """A grid of charts. It says which series it has room for; what they show comes from outside."""

    BINDING_GROUP_TITLE = "Charts"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "select(1)", "next chart", show=False, id="charts.next"),
        Binding("k,up", "select(-1)", "previous chart", show=False, id="charts.previous"),
        Binding("g,home", "select(-1000)", "first chart", show=False, id="charts.first"),
        Binding("G,end", "select(1000)", "last chart", show=False, id="charts.last"),
        Binding("enter", "enlarge", "one chart", id="charts.enlarge"),
    ]

    class Wanted(Message):
        """Other series are to be drawn, or in another size."""

    def __init__(self) -> None:
        super().__init__(id="charts")
        self._names: tuple[str, ...] = ()
        self._selected = 0
        self._is_one = False
        self._is_chosen = False
        self._charts: list[Rows] = []

    def set_names(self, names: Sequence[str]) -> None:
        """Say which series there are; the selected one stays selected."""
        if tuple(names) == self._names:
            return
        # The first chart stays first until another is chosen, whatever series appear.
        at = self.selected if self._is_chosen else None
        self._names = tuple(names)
        self._selected = self._names.index(at) if at in self._names else 0
        self.refresh_bindings()
        self.post_message(self.Wanted())

    @property
    def selected(self) -> str | None:
        """Return the name of the selected series."""
        return self._names[self._selected] if self._selected < len(self._names) else None

    @property
    def grid(self) -> tuple[int, int]:
        """Return how many charts stand side by side and above each other."""
        if self._is_one or not self._names:
            return 1, 1
        width, height = self.size
        wide = max(1, min(4, width // _LEAST_WIDTH))
        high = max(1, height // _LEAST_HEIGHT)
        # No empty places: a chart that can be larger is.
        wide = min(wide, len(self._names))
        return wide, min(high, -(-len(self._names) // wide))

    @property
    def chart_size(self) -> tuple[int, int]:
        """Return columns and rows of one chart."""
        wide, high = self.grid
        return max(1, self.size.width // wide - _GAP), max(1, self.size.height // high)

    @property
    def num_cells(self) -> int:
        """Return the cells of a plot without its labels."""
        return max(1, self.chart_size[0] - LABEL_WIDTH - 1)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Return the series of the page that the selected one is on."""
        wide, high = self.grid
        num = wide * high
        first = self._selected // num * num
        return self._names[first : first + num]

    def drawn(self, charts: Sequence[ChartData]) -> list[Rows]:
        """Draw charts in the present size; may be called from any thread."""
        width, height = self.chart_size
        return [draw(chart, width, height) for chart in charts]

    def draw(self, charts: list[Rows]) -> None:
        """Show what `drawn` returned, repainting only rows that differ."""
        self._charts = charts
        self._lay_out()

    def _lay_out(self) -> None:
        wide, _ = self.grid
        width, height = self.chart_size
        lines: Rows = []
        for first in range(0, len(self._charts), wide):
            band = self._charts[first : first + wide]
            names = self.wanted[first : first + wide]
            for y in range(height):
                line: list[tuple[str, str]] = []
                for rows, name in zip(band, names, strict=False):
                    row = rows[y] if y < len(rows) else []
                    if y == 0:
                        sign = "▸" if name == self.selected and self.has_focus else " "
                        row = [(sign, "key"), *row]
                    line += _padded(cut(row, width), width + _GAP)
                lines.append(line)
        self.show(lines)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return bool(self._names)

    def action_select(self, by: int) -> None:
        before = self.wanted
        self._is_chosen = True
        self._selected = max(0, min(self._selected + by, len(self._names) - 1))
        if self.wanted != before or self._is_one:
            self.post_message(self.Wanted())
        else:
            self._lay_out()

    def action_enlarge(self) -> None:
        self._is_one = not self._is_one
        self.post_message(self.Wanted())

    def on_focus(self, event: events.Focus) -> None:
        self._lay_out()

    def on_blur(self, event: events.Blur) -> None:
        self._lay_out()

    def on_resize(self, event: events.Resize) -> None:
        self.post_message(self.Wanted())


def _padded(row: list[tuple[str, str]], width: int) -> list[tuple[str, str]]:
    room = width - sum(cell_len(text) for text, _ in row)
    return [*row, (" " * room, "")] if room > 0 else row
