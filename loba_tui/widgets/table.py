"""A table with marks, filter and sorting that draws only the rows in sight.

It repaints only cells that have changed, so thousands of rows that are renewed every second cost
what changes in them, over the link too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from loba_tui.widgets.filter import Filter
from loba_tui.widgets.keys import page_keys, step_keys
from loba_tui.widgets.line import plain
from loba_tui.widgets.table_paint import Painter
from loba_tui.widgets.table_rows import Column, Row, shown_keys
from loba_tui.widgets.tones import Toned


class MarkTable(Toned, ScrollView, can_focus=True, inherit_bindings=False):
    """Rows that can be moved over, marked, filtered and sorted.

    Args:
        columns: At most one of width 0.
        can_sort: Otherwise rows stay in the order in which they are given.
        is_list: Have no header, and show the cursor without the focus too.
    """

    BINDING_GROUP_TITLE = "Table"
    BINDINGS: ClassVar[list[BindingType]] = [
        *step_keys("table", "move", down="down", up="up", first="first row", last="last row"),
        *page_keys("table"),
        Binding("space", "mark", "mark", id="table.mark"),
        Binding("v", "mark_range", "mark from the last mark to here", show=False, id="table.range"),
        Binding("a", "mark_all", "mark all, or none", show=False, id="table.all"),
        Binding("o", "sort_next", "sort by the next column", show=False, id="table.sort"),
        Binding("O", "sort_reverse", "reverse the order", show=False, id="table.reverse"),
        Binding("enter", "choose", "open", id="table.open"),
    ]

    @dataclass
    class Moved(Message):
        """The cursor stands on another row, None where there is none."""

        table: MarkTable
        key: str | None

    @dataclass
    class Chosen(Message):
        """Enter was pressed on a row."""

        table: MarkTable
        key: str

    @dataclass
    class Marked(Message):
        """Other rows are marked."""

        table: MarkTable

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        id: str | None = None,
        can_mark: bool = True,
        can_sort: bool = True,
        is_list: bool = False,
    ) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self._can_mark, self._can_sort, self._is_list = can_mark, can_sort, is_list
        self._num_header_rows = 0 if is_list else 1
        self._rows: dict[str, Row] = {}
        self._shown: list[str] = []
        self._marks: set[str] = set()
        self._anchor: str | None = None
        self._cursor = 0
        self._sort: tuple[int, bool] | None = None
        self.filter = Filter()

    # What is in it

    def set_rows(self, rows: Iterable[Row]) -> None:
        """Show these rows; cursor and marks stay with the rows that they are on."""
        at = self.cursor_key
        before = self._rows
        found: dict[str, Row] = {}
        changed: list[str] = []
        for row in rows:
            old = before.get(row.key)
            if old is not None and old == row:
                found[row.key] = old
                continue
            found[row.key] = row.cleaned()
            changed.append(row.key)
        self._rows = found
        gone = self._marks - found.keys()
        if gone:
            self._marks -= gone
            self.post_message(self.Marked(self))
        order = self._order()
        if order == self._shown:
            self._repaint(changed, before)
            return
        self._shown = order
        self._settle(at)

    def _order(self) -> list[str]:
        return shown_keys(self._rows.values(), self.columns, self.filter, self._sort)

    def _settle(self, at: str | None) -> None:
        """Find the cursor's row again after rows came, went or moved."""
        try:
            self._cursor = self._shown.index(at) if at is not None else 0
        except ValueError:
            self._cursor = max(0, min(self._cursor, len(self._shown) - 1))
        self.virtual_size = Size(self.size.width, len(self._shown) + self._num_header_rows)
        self._bring_into_sight()
        self.refresh()
        if self.cursor_key != at:
            self.post_message(self.Moved(self, self.cursor_key))

    def _repaint(self, changed: Sequence[str], before: dict[str, Row]) -> None:
        wanted = set(changed)
        if not wanted:
            return
        first, last = self._in_sight()
        spans = list(self._painter().spans())
        regions = []
        for index in range(first, last):
            key = self._shown[index]
            if key not in wanted:
                continue
            old, new = before[key], self._rows[key]
            y = index - first + self._num_header_rows
            if old.tone != new.tone:
                regions.append(Region(0, y, max(1, self.size.width), 1))
                continue
            for column, x, width in spans:
                if old.cells[column] != new.cells[column]:
                    regions.append(Region(x, y, width, 1))
        if regions:
            self.refresh(*regions)

    @property
    def cursor_key(self) -> str | None:
        """Return the key of the row under the cursor, None in an empty table."""
        return self._shown[self._cursor] if self._cursor < len(self._shown) else None

    @property
    def marked(self) -> list[str]:
        """Return the keys of the marked rows, hidden ones included, in the order given."""
        return [key for key in self._rows if key in self._marks]

    @property
    def chosen(self) -> list[str]:
        """Return what an action is about: the marked rows, or the one under the cursor."""
        here = self.cursor_key
        return self.marked or ([here] if here is not None else [])

    def unmark(self) -> None:
        if self._marks:
            self._marks.clear()
            self.refresh()
            self.post_message(self.Marked(self))

    def set_filter(self, text: str) -> str:
        """Show only rows that pass; return what could not be understood, or ""."""
        self.filter = Filter.parse(text, [column.key for column in self.columns])
        self._reorder()
        return self.filter.problem

    def go_to(self, key: str) -> None:
        """Put the cursor on a row, if it is shown."""
        if key in self._shown:
            self._move_to(self._shown.index(key))

    def summary(self, what: str) -> str:
        """Return how many rows are shown, marked and filtered, in a few words."""
        words = f"{len(self._rows)} {what}"
        if self._marks:
            words += f", {len(self._marks)} marked"
        if self.filter.text:
            words += f", {len(self._shown)} pass /{plain(self.filter.text)}"
        return words

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action.startswith("mark"):
            return self._can_mark
        if action.startswith("sort_"):
            return self._can_sort
        return True

    def action_move(self, by: int) -> None:
        self._move_to(self._cursor + by)

    def action_move_to(self, index: int) -> None:
        """Move the cursor to a row, counted from the end if negative."""
        self._move_to(index if index >= 0 else len(self._shown) + index)

    def action_page(self, direction: int) -> None:
        self._move_to(
            self._cursor + direction * max(1, (self.size.height - self._num_header_rows) // 2)
        )

    def _move_to(self, index: int) -> None:
        index = max(0, min(index, len(self._shown) - 1))
        if index == self._cursor:
            return
        before, self._cursor = self._cursor, index
        if not self._bring_into_sight():
            self._refresh_rows(before, index)
        self.post_message(self.Moved(self, self.cursor_key))

    def action_mark(self) -> None:
        key = self.cursor_key
        if key is None:
            return
        self._marks ^= {key}
        self._anchor = key
        self._refresh_rows(self._cursor)
        self._move_to(self._cursor + 1)
        self.post_message(self.Marked(self))

    def action_mark_range(self) -> None:
        """Mark everything from the row that was marked last to the cursor."""
        start = self._shown.index(self._anchor) if self._anchor in self._shown else self._cursor
        first, last = sorted((start, self._cursor))
        self._marks |= set(self._shown[first : last + 1])
        self._anchor = self.cursor_key
        self.refresh()
        self.post_message(self.Marked(self))

    def action_mark_all(self) -> None:
        """Mark all rows that are shown; if they are, take their marks away."""
        shown = set(self._shown)
        self._marks = self._marks - shown if shown <= self._marks else self._marks | shown
        self.refresh()
        self.post_message(self.Marked(self))

    def action_sort_next(self) -> None:
        """Sort by the next column; after the last, by none."""
        index = 0 if self._sort is None else self._sort[0] + 1
        self._sort = (index, False) if index < len(self.columns) else None
        self._reorder()

    def action_sort_reverse(self) -> None:
        index, is_reversed = self._sort or (0, False)
        self._sort = (index, not is_reversed)
        self._reorder()

    def _reorder(self) -> None:
        at = self.cursor_key
        self._shown = self._order()
        self._settle(at)

    def action_choose(self) -> None:
        key = self.cursor_key
        if key is not None:
            self.post_message(self.Chosen(self, key))

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where a mouse, if it was asked for, has clicked."""
        index = event.y - self._num_header_rows + round(self.scroll_y)
        if event.y >= self._num_header_rows and index < len(self._shown):
            self._move_to(index)

    # Drawing

    def on_resize(self, event: events.Resize) -> None:
        self.virtual_size = Size(self.size.width, len(self._shown) + self._num_header_rows)
        self._bring_into_sight()

    def _in_sight(self) -> tuple[int, int]:
        first = round(self.scroll_y)
        return first, min(
            len(self._shown), first + max(0, self.size.height - self._num_header_rows)
        )

    def _bring_into_sight(self) -> bool:
        """Scroll so that the cursor is seen; say whether that changed anything."""
        height = max(1, self.size.height - self._num_header_rows)
        first = round(self.scroll_y)
        wanted = min(max(first, self._cursor - height + 1), self._cursor)
        wanted = max(0, min(wanted, len(self._shown) - height))
        if wanted == first:
            return False
        # By force: whether there is a scrollbar is known only after the next layout.
        self.scroll_to(y=wanted, animate=False, immediate=True, force=True)
        self.refresh()
        return True

    def _refresh_rows(self, *indices: int) -> None:
        first, last = self._in_sight()
        width, top = max(1, self.size.width), self._num_header_rows
        regions = [Region(0, i - first + top, width, 1) for i in indices if first <= i < last]
        if regions:
            self.refresh(*regions)

    def _painter(self) -> Painter:
        return Painter(self.columns, self.size.width, self._can_mark, self.rich_style, self.tone)

    def render_line(self, y: int) -> Strip:
        painter = self._painter()
        if y < self._num_header_rows:
            return painter.header(self._sort)
        index = y - self._num_header_rows + round(self.scroll_y)
        if index >= len(self._shown):
            return painter.blank()
        key = self._shown[index]
        is_cursor = index == self._cursor and (self.has_focus or self._is_list)
        return painter.row(self._rows[key], is_marked=key in self._marks, is_cursor=is_cursor)
