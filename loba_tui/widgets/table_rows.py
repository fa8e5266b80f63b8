"""Columns, rows and cells of a table, and the order in which its rows are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from loba_tui.widgets.filter import Filter
from loba_tui.widgets.line import plain


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: What filters and sorting call it.
        width: Cells; 0 takes what the others leave, for one column of a table.
        at_least: The table's width from which on the column is shown.
        least: Cells that a column of width 0 never goes below.
        cut: Where text that is too long loses its characters: what tells names apart may be at
            their end.
    """

    key: str
    label: str
    width: int
    align: Literal["left", "right"] = "left"
    at_least: int = 0
    least: int = 8
    cut: Literal["end", "middle"] = "end"


class Cell(NamedTuple):
    """A cell's text and its tone (see `tones.TONES`)."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        key: What the row is known by as long as it exists.
        cells: One for each column, cleaned by the table.
        values: What each column sorts by and filters compare; the texts where it is empty.
        tone: Of all cells that have none of their own.
    """

    key: str
    cells: tuple[str | Cell, ...]
    values: tuple[Any, ...] = ()
    tone: str = ""
    texts: tuple[str, ...] = field(default=(), compare=False)

    def cleaned(self) -> Row:
        """Return the row with its texts, which hold nothing but plain text."""
        texts = tuple(plain(c.text if isinstance(c, Cell) else c) for c in self.cells)
        return Row(self.key, self.cells, self.values, self.tone, texts)

    def sort_key(self, index: int) -> tuple[int, Any]:
        """Return what a column sorts by: what is missing last, numbers before text."""
        value = self.values[index] if self.values else self.texts[index]
        if value is None:
            return (2, "")
        if isinstance(value, int | float):
            return (0, value)
        return (1, str(value).casefold())


def shown_keys(
    rows: Iterable[Row], columns: Sequence[Column], filter: Filter, sort: tuple[int, bool] | None
) -> list[str]:
    """Return the keys of the rows that pass a filter, in their order.

    A sort is the index of a column, and whether it is reversed; None keeps the order given.
    """
    names = [column.key for column in columns]
    if filter.tests:
        rows = [
            row
            for row in rows
            if filter.holds(
                dict(zip(names, row.texts, strict=False)),
                dict(zip(names, row.values or row.texts, strict=False)),
            )
        ]
    if sort is not None:
        index, is_reversed = sort
        rows = sorted(rows, key=lambda row: row.sort_key(index), reverse=is_reversed)
    return [row.key for row in rows]
