"""A screen about the rows of one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeVar

from loba_tui.screens.base import LobaScreen
from loba_tui.widgets.table import MarkTable

Known = TypeVar("Known")


class TableScreen(LobaScreen):
    """Filters the table that `TABLE` selects, and knows what its rows stand for."""

    TABLE: ClassVar[str]

    @property
    def table(self) -> MarkTable:
        return self.query_one(self.TABLE, MarkTable)

    def chosen(self, known: Mapping[str, Known]) -> list[Known]:
        """Return what the marked rows stand for, or the one under the cursor."""
        return [known[key] for key in self.table.chosen if key in known]

    def here(self, known: Mapping[str, Known]) -> Known | None:
        """Return what the row under the cursor stands for."""
        return known.get(self.table.cursor_key or "")

    def filter_changed(self, text: str) -> str:
        return self.table.set_filter(text)

    def filter_text(self) -> str:
        return self.table.filter.text
