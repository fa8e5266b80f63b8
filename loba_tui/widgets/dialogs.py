"""What asks the user something: confirm a plan, choose from a list, type a line, read a text.

Every dialog is left with esc, ctrl+g and, where no text is typed, q.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input

from loba_tui.widgets.line import Line, Lines, Piece, plain, wrapped
from loba_tui.widgets.table import Column, MarkTable, Row

_SCROLL: list[BindingType] = [
    Binding("j,down", "scroll(1)", "down", show=False),
    Binding("k,up", "scroll(-1)", "up", show=False),
    Binding("ctrl+d,pagedown", "scroll(8)", "page down", show=False),
    Binding("ctrl+u,pageup", "scroll(-8)", "page up", show=False),
    Binding("g,home", "scroll(-100000)", "top", show=False),
    Binding("G,end", "scroll(100000)", "end", show=False),
]


class TextDialog(ModalScreen[bool]):
    """A text to read, scrolled with the usual keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *_SCROLL,
        Binding("escape,ctrl+g,q,enter,question_mark", "answer(False)", "back"),
    ]

    def __init__(self, title: str, rows: Sequence[Sequence[Piece]]) -> None:
        """Show `rows` under `title`."""
        super().__init__()
        self._heading, self._content = title, rows

    def compose(self) -> ComposeResult:
        """Lay out heading, text and the keys that answer."""
        with Vertical(classes="dialog"):
            heading = Line(classes="heading")
            heading.say((self._heading, "strong"))
            yield heading
            with VerticalScroll(can_focus=False):
                content = Lines(id="content")
                content.show(self._content)
                yield content
            answers = Line(classes="answers")
            answers.say(*self.answers())
            yield answers

    def on_mount(self) -> None:
        """Show the text once the width is known."""
        self.call_after_refresh(self._wrap)

    def on_resize(self, event: events.Resize) -> None:
        """Break the text anew."""
        self.call_after_refresh(self._wrap)

    def _wrap(self) -> None:
        width = self.query_one(VerticalScroll).scrollable_content_region.width
        self.query_one("#content", Lines).show(wrapped(self._content, max(20, width - 1)))

    def answers(self) -> list[Piece]:
        """Return the keys that answer, as pieces of text."""
        return [("q", "key"), " back   ", ("j k", "key"), " scroll"]

    @property
    def text(self) -> str:
        """Return heading and text as they are before lines are broken."""
        rows = ["".join(p if isinstance(p, str) else p[0] for p in row) for row in self._content]
        return "\n".join(map(plain, [self._heading, *rows]))

    def action_scroll(self, by: int) -> None:
        """Scroll the text."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def action_answer(self, yes: bool) -> None:
        """Close with an answer."""
        self.dismiss(yes)


class ConfirmDialog(TextDialog):
    """A plan and the question whether to carry it out; only `y` says yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *_SCROLL,
        Binding("y", "answer(True)", "yes"),
        Binding("escape,ctrl+g,q,n", "answer(False)", "no"),
    ]

    def __init__(self, title: str, rows: Sequence[Sequence[Piece]], yes: str) -> None:
        """Ask; `yes` says in a word or two what `y` does."""
        super().__init__(title, rows)
        self._yes = yes

    def answers(self) -> list[Piece]:
        """Return what y and n do."""
        return [("y", "key"), f" {self._yes}   ", ("n", "key"), " back"]


@dataclass(frozen=True)
class Choice:
    """Something that can be chosen from a list.

    Attributes:
        key: What the dialog returns.
        hint: Shown at the right, such as the keys that do the same.
    """

    key: str
    label: str
    hint: str = ""


class ChoiceDialog(ModalScreen[str | None]):
    """A list with an input that narrows it down; returns the key of the choice."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+g", "leave", "back"),
        Binding("down,ctrl+n", "move(1)", "down", show=False, priority=True),
        Binding("up,ctrl+p", "move(-1)", "up", show=False, priority=True),
        Binding("pagedown", "move(8)", "page down", show=False, priority=True),
        Binding("pageup", "move(-8)", "page up", show=False, priority=True),
    ]

    def __init__(self, title: str, choices: Sequence[Choice], *, at: str | None = None) -> None:
        """Offer `choices`; the cursor begins on the one of key `at`."""
        super().__init__()
        self._heading, self._choices, self._at = title, choices, at

    def compose(self) -> ComposeResult:
        """Lay out heading, input, list and keys."""
        hint_width = max((len(choice.hint) for choice in self._choices), default=0)
        with Vertical(classes="dialog choices"):
            heading = Line(classes="heading")
            heading.say((self._heading, "strong"))
            yield heading
            line = Input(placeholder="type to narrow down", compact=True)
            line.cursor_blink = False
            yield line
            columns = [
                Column("label", "", 0),
                Column("hint", "", min(34, hint_width), at_least=44),
            ]
            table = MarkTable(columns, can_mark=False, can_sort=False, is_list=True)
            table.can_focus = False
            table.add_class("-list")
            yield table
            answers = Line(classes="answers")
            answers.say(
                ("enter", "key"), " choose  ", ("↑ ↓", "key"), " move  ", ("esc", "key"), " back"
            )
            yield answers

    def on_mount(self) -> None:
        """Fill the list and let typing go to the input."""
        table = self.query_one(MarkTable)
        table.set_rows([Row(c.key, (c.label, c.hint)) for c in self._choices])
        if self._at is not None:
            table.go_to(self._at)
        self.query_one(Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the list down to what holds all words."""
        table = self.query_one(MarkTable)
        words = event.value.casefold().split()
        table.set_rows(
            [
                Row(choice.key, (choice.label, choice.hint))
                for choice in self._choices
                if all(word in f"{choice.label} {choice.hint}".casefold() for word in words)
            ]
        )
        table.action_move_to(0)

    def action_move(self, by: int) -> None:
        """Move over the list while the input keeps the focus."""
        self.query_one(MarkTable).action_move(by)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Return the choice under the cursor.

        Enter is left to the input, which takes it after all that was typed before it.
        """
        key = self.query_one(MarkTable).cursor_key
        if key is not None:
            self.dismiss(key)

    def action_leave(self) -> None:
        """Choose nothing."""
        self.dismiss(None)


class LineDialog(ModalScreen[str | None]):
    """One line to type; it closes only with a line that passes its check."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+g", "leave", "back"),
    ]

    def __init__(
        self,
        title: str,
        rows: Sequence[Sequence[Piece]],
        *,
        value: str = "",
        check: Callable[[str], str] = lambda text: "",
    ) -> None:
        """Ask for a line.

        Args:
            title: The question.
            rows: What helps to answer it.
            value: To begin with.
            check: Returns what is wrong with a line, or "".
        """
        super().__init__()
        self._heading, self._content, self._value, self._check = title, rows, value, check

    def compose(self) -> ComposeResult:
        """Lay out question, help, input and what is wrong with it."""
        with Vertical(classes="dialog"):
            heading = Line(classes="heading")
            heading.say((self._heading, "strong"))
            yield heading
            content = Lines()
            content.show(self._content)
            yield content
            line = Input(value=self._value, compact=True, select_on_focus=False)
            line.cursor_blink = False
            yield line
            yield Lines(id="wrong")
            answers = Line(classes="answers")
            answers.say(("enter", "key"), " accept  ", ("esc", "key"), " back")
            yield answers

    def on_mount(self) -> None:
        """Let typing go to the input."""
        line = self.query_one(Input)
        line.focus()
        line.cursor_position = len(line.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Close with the line, or say what is wrong with it."""
        value = event.value.strip()
        wrong = self._check(value) if value else "Type something, or leave with esc."
        if not wrong:
            self.dismiss(value)
            return
        self.query_one("#wrong", Lines).show([[(row, "bad")] for row in wrong.splitlines()])

    def action_leave(self) -> None:
        """Close without a line."""
        self.dismiss(None)
