"""The row at the top of every screen, and the one at its foot with keys and messages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from textual import events

from loba_tui.widgets.line import Line, Piece, plain, wrapped

_MOST_ROWS = 3
_MESSAGE_SECONDS = {"good": 5.0, "": 5.0, "warn": 9.0, "bad": 12.0}


@dataclass(frozen=True)
class Tab:
    """A screen that the top row names; actions and the keymap call it by its id."""

    id: str
    key: str
    title: str


class TopBar(Line):
    """The screens with their keys, and what the present one is about."""

    def __init__(self, tabs: Sequence[Tab]) -> None:
        super().__init__(id="top")
        self._tabs = tuple(tabs)
        self._subject = ""
        self._tone = ""

    def on_mount(self) -> None:
        self.draw()

    def on_resize(self, event: events.Resize) -> None:
        self.draw()

    def about(self, subject: str, tone: str = "") -> None:
        """Say at the right what the screen is about."""
        self._subject, self._tone = plain(subject), tone
        self.draw()

    def draw(self) -> None:
        pieces: list[Piece] = [(" LOBA ", "strong")]
        for tab in self._tabs:
            is_active = tab.id == self.app.current_mode
            label = f" {tab.key} {tab.title} "
            pieces.append((label, "active" if is_active else ""))
        taken = sum(cell_len(piece[0] if isinstance(piece, tuple) else piece) for piece in pieces)
        room = self.size.width - taken - 2
        if room >= 4 and self._subject:
            subject = self._subject
            if cell_len(subject) > room:
                subject = set_cell_size(subject, room - 1) + "…"
            pieces += [" " * (room - cell_len(subject) + 1), (subject, self._tone)]
        self.say(*pieces)


class KeyBar(Line):
    """The most useful keys of the screen; for some seconds, what has just happened."""

    def __init__(self) -> None:
        super().__init__(id="keys")
        self._message: tuple[str, str] | None = None
        self._until = 0.0

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.draw())
        self.draw()

    def on_resize(self, event: events.Resize) -> None:
        self.draw()

    @property
    def message(self) -> str:
        """Return the message that is shown, or "" where the keys are."""
        return self._message[0] if self._message else ""

    def tell(self, text: str, tone: str = "") -> None:
        """Show a message in place of the keys for some seconds."""
        self._message = (plain(text), tone)
        seconds = _MESSAGE_SECONDS.get(tone, 5.0)
        self._until = time.monotonic() + seconds
        self.draw()
        self.set_timer(seconds + 0.05, self._forget)

    def _forget(self) -> None:
        if self._message is not None and time.monotonic() >= self._until:
            self._message = None
            self.draw()

    def draw(self) -> None:
        if self._message is not None:
            text, tone = self._message
            sign = {"bad": "! ", "warn": "! ", "good": "✓ "}.get(tone, "")
            rows = wrapped([[(f"{sign}{text}", tone)]], self.size.width - 2)[:_MOST_ROWS]
            self._show_rows([[" ", *row] for row in rows])
            return
        pieces: list[Piece] = [" "]
        special, everywhere = self._hints()
        # How to leave and where all keys are told is always there.
        room = self.size.width - 1 - sum(map(_width, everywhere))
        shown = []
        for hint in special:
            room -= _width(hint)
            if room < 0:
                break
            shown.append(hint)
        for key, description in [*shown, *everywhere]:
            pieces += [(key, "key"), f" {description}  "]
        self._show_rows([pieces])

    def _show_rows(self, rows: Sequence[Sequence[Piece]]) -> None:
        """Show rows, and take as many of the screen as there are."""
        self.show(rows)
        if self.styles.height is None or self.styles.height.value != len(rows):
            self.styles.height = len(rows)

    def _hints(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Return key and description of what the screen offers, and of what every screen does."""
        found: dict[tuple[object, str], tuple[str, str]] = {}
        everywhere: dict[tuple[object, str], tuple[str, str]] = {}
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if not binding.show or not binding.description or not active.enabled:
                continue
            hint = (self.app.get_key_display(binding), binding.description)
            group = everywhere if active.node is self.app else found
            known = group.get((active.node, binding.action))
            # Of several keys the shortest one is the one to remember.
            if known is None or len(hint[0]) < len(known[0]):
                group[active.node, binding.action] = hint
        return list(found.values()), list(everywhere.values())


def _width(hint: tuple[str, str]) -> int:
    return cell_len(hint[0]) + cell_len(hint[1]) + 3
