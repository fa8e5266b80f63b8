"""One row, or a block of rows, of plain text that is repainted only where it has changed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip

from loba_tui.core.text import clean
from loba_tui.widgets.tones import Toned

Piece = str | tuple[str, str]
"""Text, or text and its tone (see `tones.TONES`)."""

_WORDS = re.compile(r"\s*\S+|\s+$")


def plain(text: object) -> str:
    """Return foreign text cleaned; what is printable ASCII already costs next to nothing."""
    if isinstance(text, str) and text.isascii() and text.isprintable():
        return text
    return clean(text)


class Lines(Toned):
    """Rows of pieces of text. Every piece is cleaned and nothing in it is markup."""

    def __init__(
        self,
        rows: Sequence[Sequence[Piece]] = (),
        *,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._rows = [tuple(map(_piece, row)) for row in rows]

    @property
    def text(self) -> str:
        """Return all that is shown, as plain text."""
        return "\n".join("".join(text for text, _ in row) for row in self._rows)

    def show(self, rows: Sequence[Sequence[Piece]]) -> None:
        """Show these rows, repainting only those that differ."""
        before = self._rows
        self._rows = [tuple(map(_piece, row)) for row in rows]
        if len(before) != len(self._rows) and self.styles.is_auto_height:
            self.refresh(layout=True)
            return
        changed = [
            Region(0, y, max(1, self.size.width), 1)
            for y in range(max(len(before), len(self._rows)))
            if before[y : y + 1] != self._rows[y : y + 1]
        ]
        if changed and self.is_attached:
            self.refresh(*changed)

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        return len(self._rows)

    def render_line(self, y: int) -> Strip:
        ground = self.rich_style
        width = self.size.width
        segments = []
        if y < len(self._rows):
            segments = [
                Segment(text, ground + self.tone(tone) if tone else ground)
                for text, tone in self._rows[y]
            ]
        return Strip(segments).adjust_cell_length(width, ground)


class Line(Lines):
    """One row of text."""

    def __init__(self, *pieces: Piece, id: str | None = None, classes: str | None = None) -> None:
        super().__init__([pieces] if pieces else (), id=id, classes=classes)

    def say(self, *pieces: Piece) -> None:
        self.show([pieces])


def _piece(piece: Piece) -> tuple[str, str]:
    text, tone = (piece, "") if isinstance(piece, str) else piece
    return plain(text), tone


def wrapped(rows: Sequence[Sequence[Piece]], width: int) -> list[list[tuple[str, str]]]:
    """Return rows broken between words where they are wider than `width`, tones kept."""
    found: list[list[tuple[str, str]]] = []
    for row in rows:
        line: list[tuple[str, str]] = []
        room = max(1, width)
        for text, tone in map(_piece, row):
            for word in _WORDS.findall(text):
                if cell_len(word) > room and line:
                    found.append(line)
                    line, room, word = [], max(1, width), word.lstrip()
                while cell_len(word) > room and len(word) > 1:
                    num = max(1, room)
                    while num > 1 and cell_len(word[:num]) > room:
                        num -= 1
                    found.append([*line, (word[:num], tone)])
                    line, word, room = [], word[num:], max(1, width)
                line.append((word, tone))
                room -= cell_len(word)
        found.append(line)
    return found
