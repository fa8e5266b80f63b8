"""A picture as half-blocks: two pixels a cell, in every terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

if TYPE_CHECKING:
    from PIL import Image

_UPPER_HALF = "▀"


def half_blocks(image: Image.Image, columns: int, rows: int) -> list[Strip]:
    """Return a picture as rows of cells, as large as fits with its shape kept."""
    if columns < 1 or rows < 1:
        return []
    factor = min(columns / image.width, 2 * rows / image.height)
    width = max(1, min(columns, round(image.width * factor)))
    height = max(1, min(rows, round(image.height * factor / 2)))
    from PIL.Image import Resampling

    method = Resampling.NEAREST if factor >= 1 else Resampling.LANCZOS
    pixels = image.convert("RGB").resize((width, 2 * height), method).load()
    styles: dict[tuple[object, object], Style] = {}
    strips = []
    for y in range(height):
        segments: list[Segment] = []
        for x in range(width):
            pair = (pixels[x, 2 * y], pixels[x, 2 * y + 1])
            style = styles.get(pair)
            if style is None:
                style = styles[pair] = Style(color=_hex(pair[0]), bgcolor=_hex(pair[1]))
            if segments and segments[-1].style is style:
                segments[-1] = Segment(segments[-1].text + _UPPER_HALF, style)
            else:
                segments.append(Segment(_UPPER_HALF, style))
        strips.append(Strip(segments, width))
    return strips


def _hex(pixel: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel)


class Picture(Widget):
    """Shows what `half_blocks` made."""

    def __init__(self) -> None:
        super().__init__()
        self._strips: list[Strip] = []

    def show(self, strips: list[Strip]) -> None:
        self._strips = strips
        self.refresh()

    def render_line(self, y: int) -> Strip:
        ground = self.rich_style
        if y < len(self._strips):
            return self._strips[y].adjust_cell_length(self.size.width, ground)
        return Strip.blank(self.size.width, ground)
