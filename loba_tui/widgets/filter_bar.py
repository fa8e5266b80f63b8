"""The input in which a filter or a search is typed; it is there only while it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input


class FilterBar(Input):
    """Opened with `/`; tells of each change, Enter keeps the filter, Esc and ctrl+g clear it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "close", "keep filter", id="filter.keep"),
        Binding("escape,ctrl+g", "clear", "clear filter", id="filter.clear"),
    ]

    @dataclass
    class Filtered(Message):
        """The filter has changed."""

        text: str

    def __init__(self) -> None:
        super().__init__(id="filter", select_on_focus=False, compact=True)
        self.cursor_blink = False
        self.display = False
        self._back_to: Widget | None = None

    def open(self, placeholder: str, text: str) -> None:
        """Appear with a text and take the focus."""
        self._back_to = self.screen.focused
        self.placeholder = placeholder
        self.display = True
        with self.prevent(Input.Changed):
            self.value = text
        self.cursor_position = len(text)
        self.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        if self.display:
            self.post_message(self.Filtered(self.value))

    def action_clear(self) -> None:
        with self.prevent(Input.Changed):
            self.value = ""
        self.post_message(self.Filtered(""))
        self.action_close()

    def action_close(self) -> None:
        self.display = False
        if self._back_to is not None and self._back_to.is_attached:
            self._back_to.focus()
