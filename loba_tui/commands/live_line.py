"""The program as commands start it: its progress is a line that rewrites itself on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from loba_tui.client.runs.progress import PlainScreen, Progress, Screen
from loba_tui.core.output import beneath
from loba_tui.core.text import clean

if TYPE_CHECKING:
    from rich.live import Live

    from loba_tui.client.runs.foreground import Foreground


class LiveScreen:
    """One line that rewrites itself, cut to the terminal's width; messages scroll above it."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        # It moves the cursor; what it shows is cleaned here.
        self._console = Console(file=beneath(stream), highlight=False, markup=False, emoji=False)
        self._live: Live = Live(console=self._console, auto_refresh=False)
        self._live.start()
        self._shown = ""

    def show(self, progress: Progress) -> None:
        """Rewrite the line where it has changed."""
        from rich.text import Text

        text = progress.text()
        if text != self._shown:
            self._shown = text
            line = Text(text, no_wrap=True, overflow="ellipsis", end="")
            self._live.update(line, refresh=True)

    def message(self, text: str) -> None:
        """Print a message above the line."""
        from rich.text import Text

        self._console.print(Text(clean(text)), soft_wrap=True)

    def close(self) -> None:
        """Leave the line as it is and give the terminal back."""
        self._live.stop()


def open_screen(stream: TextIO, environ: Mapping[str, str]) -> Screen:
    """Return a rewriting line for a capable terminal, plain lines for everything else."""
    if stream.isatty() and environ.get("TERM", "") not in ("", "dumb", "unknown"):
        return LiveScreen(stream)
    return PlainScreen(stream)


def foreground() -> Foreground:
    """Return what starts programs for a command and shows their progress on stderr."""
    from loba_tui.client.runs.foreground import Foreground

    return Foreground(os.environ, lambda: open_screen(sys.stderr, os.environ))
