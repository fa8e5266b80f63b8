"""The table of a sweep while it goes on: rewritten on a terminal, else a line for each change."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

from loba_tui.client.sweeps.results import Result
from loba_tui.client.sweeps.table import result_lines
from loba_tui.core.output import beneath
from loba_tui.core.text import clean

if TYPE_CHECKING:
    from rich.live import Live


class Table(Protocol):
    """Where the runs of a sweep are shown."""

    def show(self, results: Sequence[Result]) -> None:
        """Show the runs as they are; called twice a second."""

    def close(self) -> None:
        """Leave the last state standing."""


class LiveTable:
    """Lines that rewrite themselves; those that the terminal has no room for are counted."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=beneath(stream), highlight=False, markup=False, emoji=False)
        self._live: Live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def show(self, results: Sequence[Result]) -> None:
        """Rewrite the lines; what goes on comes first."""
        from rich.text import Text

        ordered = sorted(results, key=lambda each: each.state in ("queued", "finished"))
        lines = result_lines(ordered)
        room = max(3, self._console.height - 2)
        if len(lines) > room:
            lines = [*lines[:room], f"… and {len(lines) - room} lines more"]
        lines.append(_counts(results))
        text = Text("\n".join(map(clean, lines)), no_wrap=True, overflow="ellipsis")
        self._live.update(text, refresh=True)

    def close(self) -> None:
        """Take the lines away: the table of the results follows."""
        from rich.text import Text

        self._live.update(Text(""), refresh=True)
        self._live.stop()


class PlainTable:
    """A line for every run that changes its state, as suits a log file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._states: dict[int, str] = {}

    def show(self, results: Sequence[Result]) -> None:
        """Write the runs whose state is another one."""
        for result in sorted(results, key=lambda each: each.run.number):
            number = result.run.number
            if self._states.get(number) != result.state and result.state != "starting":
                self._states[number] = result.state
                values = ", ".join(f"{key}={value}" for key, value in result.run.values.items())
                line = f"run {number} of {len(results)}  {result.state}  {values}"
                self._stream.write(clean(line) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the lines as they are."""


def _counts(results: Sequence[Result]) -> str:
    counted = Counter(result.state for result in results)
    return ", ".join(f"{count} {state}" for state, count in counted.items())


def open_table(environ: Mapping[str, str]) -> Table:
    """Return lines that rewrite themselves for a capable terminal, plain lines else."""
    stream = sys.stderr
    if stream.isatty() and environ.get("TERM", "") not in ("", "dumb", "unknown"):
        return LiveTable(stream)
    return PlainTable(stream)
