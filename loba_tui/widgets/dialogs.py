"""Dialogs: confirm a plan, choose from a list, type a line, read a text.

Every dialog is left with esc, ctrl+g and, where no text is typed, q.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input

from loba_tui.widgets.line import Line, Lines, Piece, plain, wrapped
from loba_tui.widgets.table import MarkTable
from loba_tui.widgets.table_rows import Column, Row

Answer = TypeVar("Answer")


class Dialog(ModalScreen[Answer]):
    """A box with a heading, what it is about, and the keys that answer."""

    KIND: ClassVar[str] = ""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,ctrl+g", "leave", "back")]
    answers: Sequence[Piece] = ()

    def __init__(self, title: str) -> None:
        super().__init__()
        self._heading = title

    def compose(self) -> ComposeResult:
        with Vertical(classes=f"dialog {self.KIND}"):
            yield Line((self._heading, "strong"), classes="heading")
            yield from self.compose_content()
            yield Line(*self.answers, classes="answers")

    def compose_content(self) -> ComposeResult:
        """Yield what stands between heading and keys."""
        raise NotImplementedError

    def answer(self, answer: Answer | None) -> None:
        """Close with an answer; a key that comes after it was closed does nothing."""
        if self.is_active:
            self.dismiss(answer)

    def action_leave(self) -> None:
        self.answer(None)


class TextDialog(Dialog[bool]):
    """A text to read, scrolled with the usual keys."""

    answers = (("q", "key"), " back   ", ("j k", "key"), " scroll")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "scroll(1)", "down", show=False),
        Binding("k,up", "scroll(-1)", "up", show=False),
        Binding("ctrl+d,pagedown", "scroll(8)", "page down", show=False),
        Binding("ctrl+u,pageup", "scroll(-8)", "page up", show=False),
        Binding("g,home", "scroll(-100000)", "top", show=False),
        Binding("G,end", "scroll(100000)", "end", show=False),
        Binding("q,enter,question_mark", "leave", "back"),
    ]

    def __init__(self, title: str, rows: Sequence[Sequence[Piece]]) -> None:
        super().__init__(title)
        self._content = rows

    def compose_content(self) -> ComposeResult:
        with VerticalScroll(can_focus=False):
            yield Lines(self._content, id="content")

    def on_mount(self) -> None:
        """Break the text once the width is known."""
        self.call_after_refresh(self._wrap)

    def on_resize(self, event: events.Resize) -> None:
        self.call_after_refresh(self._wrap)

    def _wrap(self) -> None:
        width = self.query_one(VerticalScroll).scrollable_content_region.width
        self.query_one("#content", Lines).show(wrapped(self._content, max(20, width - 1)))

    @property
    def text(self) -> str:
        """Return heading and text as they are before lines are broken."""
        rows = ["".join(p if isinstance(p, str) else p[0] for p in row) for row in self._content]
        return "\n".join(map(plain, [self._heading, *rows]))

    def action_scroll(self, by: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)


class ConfirmDialog(TextDialog):
    """A plan and the question whether to carry it out; only `y`, which does `yes`, says yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "agree", "yes"),
        Binding("n", "leave", "no"),
    ]

    def __init__(self, title: str, rows: Sequence[Sequence[Piece]], yes: str) -> None:
        super().__init__(title, rows)
        self.answers = (("y", "key"), f" {yes}   ", ("n", "key"), " back")

    def action_agree(self) -> None:
        self.answer(True)


@dataclass(frozen=True)
class Choice:
    """Something in a list; its hint stands at the right, such as the keys that do the same."""

    key: str
    label: str
    hint: str = ""


class ChoiceDialog(Dialog[str]):
    """A list with an input that narrows it down; returns the key of the choice.

    Args:
        at: The key of the one that the cursor begins on.
    """

    answers = (("enter", "key"), " choose  ", ("↑ ↓", "key"), " move  ", ("esc", "key"), " back")
    KIND = "choices"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,ctrl+n", "move(1)", "down", show=False, priority=True),
        Binding("up,ctrl+p", "move(-1)", "up", show=False, priority=True),
        Binding("pagedown", "move(8)", "page down", show=False, priority=True),
        Binding("pageup", "move(-8)", "page up", show=False, priority=True),
    ]

    def __init__(self, title: str, choices: Sequence[Choice], *, at: str | None = None) -> None:
        super().__init__(title)
        self._choices, self._at = choices, at

    def compose_content(self) -> ComposeResult:
        hint_width = max((len(choice.hint) for choice in self._choices), default=0)
        yield _input(placeholder="type to narrow down")
        columns = [Column("label", "", 0), Column("hint", "", min(34, hint_width), at_least=44)]
        table = MarkTable(columns, can_mark=False, can_sort=False, is_list=True)
        table.can_focus = False
        table.add_class("-list")
        yield table

    def on_mount(self) -> None:
        self._show("")
        if self._at is not None:
            self.query_one(MarkTable).go_to(self._at)
        self.query_one(Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._show(event.value)
        self.query_one(MarkTable).action_move_to(0)

    def _show(self, typed: str) -> None:
        words = typed.casefold().split()
        self.query_one(MarkTable).set_rows(
            Row(choice.key, (choice.label, choice.hint))
            for choice in self._choices
            if all(word in f"{choice.label} {choice.hint}".casefold() for word in words)
        )

    def action_move(self, by: int) -> None:
        """Move over the list while the input keeps the focus."""
        self.query_one(MarkTable).action_move(by)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Return the choice under the cursor.

        Enter is left to the input, which takes it after all that was typed before it.
        """
        key = self.query_one(MarkTable).cursor_key
        if key is not None:
            self.answer(key)


class LineDialog(Dialog[str]):
    """One line to type; it closes only with a line that passes its check.

    Args:
        rows: What helps to answer the question.
        check: Returns what is wrong with a line, or "".
    """

    answers = (("enter", "key"), " accept  ", ("esc", "key"), " back")

    def __init__(
        self,
        title: str,
        rows: Sequence[Sequence[Piece]],
        *,
        value: str = "",
        check: Callable[[str], str] = lambda text: "",
    ) -> None:
        super().__init__(title)
        self._content, self._value, self._check = rows, value, check

    def compose_content(self) -> ComposeResult:
        yield Lines(self._content)
        yield _input(value=self._value, select_on_focus=False)
        yield Lines(id="wrong")

    def on_mount(self) -> None:
        line = self.query_one(Input)
        line.focus()
        line.cursor_position = len(line.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        value = event.value.strip()
        wrong = self._check(value) if value else "Type something, or leave with esc."
        if wrong:
            self.query_one("#wrong", Lines).show([[(row, "bad")] for row in wrong.splitlines()])
        else:
            self.answer(value)


def _input(**options: Any) -> Input:
    line = Input(compact=True, **options)
    line.cursor_blink = False
    return line
