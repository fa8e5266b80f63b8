"""Lines of a log: follows the end, scrolls, and finds a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.strip import Strip

from loba_tui.widgets.keys import page_keys, step_keys
from loba_tui.widgets.line import plain
from loba_tui.widgets.tones import Toned

_SIDEWAYS = 16
_STEPS = step_keys("log", "scroll", down="down", up="up", first="top", last="end, and follow")


class LogView(Toned, can_focus=True):
    """Shows lines that only grow at the end, cut at both sides rather than wrapped."""

    BINDING_GROUP_TITLE = "Log"
    BINDINGS: ClassVar[list[BindingType]] = [
        *_STEPS[:2],
        *page_keys("log"),
        *_STEPS[2:],
        Binding("L", "sideways(1)", "see what is cut at the right", show=False, id="log.right"),
        Binding("H", "sideways(-1)", "back to the left", show=False, id="log.left"),
        Binding("n", "find(1)", "next match", id="log.next"),
        Binding("N", "find(-1)", "previous match", show=False, id="log.previous"),
    ]

    def __init__(self, title: str, *, id: str) -> None:
        super().__init__(id=id)
        self._title = title
        self._lines: tuple[str, ...] = ()
        self._from = 0
        self._left = 0
        self._is_following = True
        self.word = ""
        self._found: int | None = None

    @property
    def text(self) -> str:
        """Return the lines in sight."""
        return "\n".join(self._lines[self._top : self._top + self._num_rows])

    @property
    def _num_rows(self) -> int:
        return max(1, self.size.height - 1)

    @property
    def _last_top(self) -> int:
        return max(0, len(self._lines) - self._num_rows)

    def show(self, lines: Sequence[str]) -> None:
        """Show these lines; where the end was in sight, it stays so."""
        if tuple(lines) == self._lines:
            return
        self._lines = tuple(lines)
        self.refresh()

    @property
    def _top(self) -> int:
        """Return the first line in sight; the end stays in sight while it is followed."""
        return self._last_top if self._is_following else min(self._from, self._last_top)

    def _show_from(self, top: int) -> None:
        self._from = max(0, min(top, self._last_top))
        self._is_following = self._from == self._last_top
        self.refresh()

    def action_scroll(self, by: int) -> None:
        """Scroll; at the end new lines are followed again."""
        self._show_from(self._top + by)

    def action_page(self, direction: int) -> None:
        self.action_scroll(direction * max(1, self._num_rows // 2))

    def action_sideways(self, direction: int) -> None:
        self._left = max(0, self._left + direction * _SIDEWAYS)
        self.refresh()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "find" or bool(self.word)

    def search(self, word: str) -> str:
        """Look for a word from the end on; return what to say where it is not there."""
        self.word = word
        self._found = None
        self.refresh_bindings()
        self.refresh()
        if not word:
            return ""
        return "" if self._find(range(len(self._lines) - 1, -1, -1)) else f"{word} is not there"

    def action_find(self, direction: int) -> None:
        """Go to the next or the previous line that holds the word, around the end."""
        num = len(self._lines)
        if not num:
            return
        here = self._found if self._found is not None else self._top
        self._find([(here + direction * i) % num for i in range(1, num + 1)])

    def _find(self, order: Sequence[int]) -> bool:
        wanted = self.word.casefold()
        for number in order:
            if number < len(self._lines) and wanted in self._lines[number].casefold():
                self._found = number
                self._show_from(number - self._num_rows // 2)
                return True
        return False

    def render_line(self, y: int) -> Strip:
        ground, width = self.rich_style, self.size.width
        if y == 0:
            return self._heading(width)
        number = self._top + y - 1
        if number >= len(self._lines):
            return Strip.blank(width, ground)
        text = self._lines[number][self._left :]
        hit = ground + self.tone("marked")
        parts = _parts(text, self.word)
        segments = [Segment(piece, hit if is_hit else ground) for piece, is_hit in parts]
        if number == self._found:
            segments.insert(0, Segment("▸", hit))
        return Strip(segments).adjust_cell_length(width, ground)

    def _heading(self, width: int) -> Strip:
        ground = self.rich_style
        style = ground + self.tone("active" if self.has_focus else "strong")
        detail = f" {len(self._lines)} lines" if self._lines else " nothing yet"
        if not self._is_following:
            detail += f", from {self._top + 1}; G follows the end"
        if self.word:
            detail += f"  /{plain(self.word)}"
        segments = [Segment(f" {self._title} ", style), Segment(detail, ground)]
        return Strip(segments).adjust_cell_length(width, ground)


def _parts(text: str, word: str) -> list[tuple[str, bool]]:
    """Return a line in pieces: what is looked for, and what is between."""
    if not word:
        return [(text, False)]
    folded, wanted = text.casefold(), word.casefold()
    if len(folded) != len(text):
        # Some letters fold to two; rather no mark than one at the wrong place.
        return [(text, False)]
    found: list[tuple[str, bool]] = []
    start = 0
    while (at := folded.find(wanted, start)) >= 0:
        found += [(text[start:at], False), (text[at : at + len(word)], True)]
        start = at + len(word)
    return [*found, (text[start:], False)]
