"""How a table's header and rows are drawn in the width that there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from loba_tui.widgets.table_rows import Cell, Column, Row

_MARK = "●"
_GAP = 1


@dataclass(frozen=True)
class Painter:
    """Draws the rows of a table.

    Attributes:
        can_mark: Leave room for marks.
        ground: The style of ordinary text.
        tone: Returns what a tone adds to it.
    """

    columns: tuple[Column, ...]
    width: int
    can_mark: bool
    ground: Style
    tone: Callable[[str], Style]

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Yield index, first cell and width of each column that is shown."""
        shown = [i for i, column in enumerate(self.columns) if self.width >= column.at_least]
        x = 2 if self.can_mark else 1
        fixed = sum(self.columns[i].width for i in shown) + _GAP * len(shown) + x
        for index in shown:
            column = self.columns[index]
            width = column.width or max(column.least, self.width - fixed)
            yield index, x, width
            x += width + _GAP

    def blank(self) -> Strip:
        return Strip.blank(self.width, self.ground)

    def header(self, sort: tuple[int, bool] | None) -> Strip:
        """Return the labels; the column that the table is sorted by has a sign."""
        style = self.ground + self.tone("header")
        segments = [Segment("  " if self.can_mark else " ", style)]
        for index, _, cells in self.spans():
            column = self.columns[index]
            sign = "" if sort is None or sort[0] != index else ("▼" if sort[1] else "▲")
            segments.append(Segment(_fit(column.label + sign, cells, column) + " " * _GAP, style))
        return Strip(segments).adjust_cell_length(self.width, style)

    def row(self, row: Row, *, is_marked: bool, is_cursor: bool) -> Strip:
        """Return a row; the cursor lies over the tones of its cells."""
        style = self.ground
        if row.tone:
            style += self.tone(row.tone)
        if is_marked:
            style += self.tone("marked")
        over = self.tone("cursor") if is_cursor else None
        base = style + over if over else style
        sign = (_MARK if is_marked else " ") + " " if self.can_mark else " "
        segments = [Segment(sign, base)]
        for index, _, cells in self.spans():
            cell = row.cells[index]
            own = base
            if isinstance(cell, Cell) and cell.tone:
                own = style + self.tone(cell.tone)
                own = own + over if over else own
            segments.append(Segment(_fit(row.texts[index], cells, self.columns[index]), own))
            segments.append(Segment(" " * _GAP, base))
        return Strip(segments).adjust_cell_length(self.width, base)


def _fit(text: str, width: int, column: Column) -> str:
    """Return a text cut or padded to a width, as its column says."""
    taken = cell_len(text)
    if taken > width:
        if column.cut == "middle" and width > 8 and text.isascii():
            return f"{text[: width - 5]}…{text[-4:]}"
        return set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, width)
    room = " " * (width - taken)
    return room + text if column.align == "right" else text + room
