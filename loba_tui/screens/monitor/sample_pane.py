"""Picture strips of a run: one step at a time, all scales together or one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.strip import Strip

from loba_tui.client.context import ImageMode
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.text import clean
from loba_tui.widgets.line import Line
from loba_tui.widgets.picture import Picture, half_blocks

if TYPE_CHECKING:
    from PIL import Image

# Pixels of a cell where a terminal draws true pictures; most fonts are about so.
_CELL_PIXELS = (8, 16)


class SamplePane(Vertical, can_focus=True):
    """Steps through strips and their scales; reading a strip is left to whoever owns the pane."""

    BINDING_GROUP_TITLE = "Samples"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "step(1)", "later step", show=False, id="samples.later"),
        Binding("k,up", "step(-1)", "earlier step", show=False, id="samples.earlier"),
        Binding("g,home", "step(-1000000)", "first step", show=False, id="samples.first"),
        Binding("G,end", "step(1000000)", "newest step, and follow", show=False, id="samples.last"),
    ]

    def __init__(self, mode: ImageMode) -> None:
        super().__init__(id="samples")
        self._mode = mode
        self._strips: tuple[OwnedFile, ...] = ()
        self._at: OwnedFile | None = None
        self._scale = -1
        self._num_scales = 0
        self._note = ""
        self.is_stale = False

    def compose(self) -> ComposeResult:
        yield Line(id="sample-heading")
        if self._mode in ("kitty", "sixel"):
            yield true_picture(self._mode)
        else:
            yield Picture()

    def set_strips(self, strips: Sequence[OwnedFile]) -> None:
        """Say which strips there are; the newest is shown unless another was chosen."""
        if tuple(strips) != self._strips:
            self._strips = tuple(strips)
            if self._at not in self._strips:
                self._at = None
            self.is_stale = True
        self._heading()

    @property
    def strip(self) -> OwnedFile | None:
        """Return the strip that is to be shown."""
        if self._at is not None:
            return self._at
        return self._strips[-1] if self._strips else None

    @property
    def room(self) -> tuple[int, int]:
        """Return columns and rows that a picture can take."""
        return self.size.width, max(0, self.size.height - 1)

    def action_step(self, by: int) -> None:
        if not self._strips:
            return
        here = self._strips.index(self._at) if self._at in self._strips else len(self._strips) - 1
        there = max(0, min(here + by, len(self._strips) - 1))
        # At the newest one new strips are followed again.
        self._at = None if there == len(self._strips) - 1 else self._strips[there]
        self.is_stale = True
        self._heading()

    def step_scale(self, by: int) -> None:
        """Show the next or the previous scale; before the first are all together."""
        self._scale = max(-1, min(self._scale + by, self._num_scales - 1))
        self.is_stale = True
        self._heading()

    def read(self) -> tuple[int, str, list[Strip] | Image.Image | None]:
        """Return how many scales the strip tells apart, a note, and the picture to be shown.

        It is called off the UI thread.
        """
        strip, scale, (columns, rows) = self.strip, self._scale, self.room
        if strip is None or self._mode == "off" or columns < 1 or rows < 1:
            return 0, "", None
        # Pillow is loaded when there is a picture, not before the first paint.
        from loba_tui.screens.monitor.strip_cells import best_columns, one_scale, open_strip

        image, cells = open_strip(strip)
        note = "all scales" if cells.scales else "scales not told apart"
        if cells.scales and scale >= 0:
            scale = min(scale, len(cells.scales) - 1)
            pixels = (columns * _CELL_PIXELS[0], rows * _CELL_PIXELS[1])
            image = one_scale(image, cells, scale, best_columns(len(cells.ys), cells.size, pixels))
            note = f"scale {cells.scales[scale]:+g}"
        if self._mode == "half":
            return len(cells.scales), note, half_blocks(image, columns, rows)
        return len(cells.scales), note, image

    def show(self, found: tuple[int, str, list[Strip] | Image.Image | None]) -> None:
        """Show what `read` returned."""
        self._num_scales, self._note, picture = found
        self._scale = min(self._scale, self._num_scales - 1)
        if self._mode in ("kitty", "sixel"):
            target: Any = self.children[1]
            target.image = picture
        else:
            self.query_one(Picture).show(picture if isinstance(picture, list) else [])
        self._heading()

    def _heading(self) -> None:
        tone = "active" if self.has_focus else "strong"
        strip = self.strip
        if strip is None:
            facts = " none yet; I draws one now"
        else:
            number = self._strips.index(strip) + 1 if strip in self._strips else 0
            facts = (
                f" {clean(strip.path.stem, limit=40)}  {number}/{len(self._strips)}  {self._note}"
            )
            if self._mode == "off":
                facts += "  (pictures are off)"
        self.query_one("#sample-heading", Line).say((" samples ", tone), facts)

    def on_focus(self, event: events.Focus) -> None:
        self._heading()

    def on_blur(self, event: events.Blur) -> None:
        self._heading()

    def on_resize(self, event: events.Resize) -> None:
        self.is_stale = True


def true_picture(mode: ImageMode) -> Any:
    """Return textual-image's widget for a terminal's own pictures."""
    from textual_image.widget import SixelImage, TGPImage

    return TGPImage() if mode == "kitty" else SixelImage()
