"""The page that reports are drawn on: size, colours, and the same bytes for the same input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 1200, 800, 100
INK, FAINT, GRID = "#1c2026", "#8a929c", "#e6e9ed"


@contextmanager
def page(png: IO[bytes]) -> Iterator[Figure]:
    """Lend a white page of 1200 x 800 pixels inside a `with` block, then write it as a PNG."""
    # Half a second: only who draws a page pays it.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A user's own matplotlibrc must not change the page.
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(png, format="png", metadata={"Software": None})
