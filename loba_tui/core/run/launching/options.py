"""The command line of a supervisor, and the signals that it gets."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from loba_tui.core.foreign_json import parse_json
from loba_tui.core.run.deadline import Deadline
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launch import PROGRAM


@dataclass(frozen=True)
class Options:
    """The arguments that the program gets each time.

    Attributes:
        changes: Arguments that must reach the program once.
        others: All other arguments.
    """

    resume: bool
    deadline: Deadline | None
    changes: tuple[str, ...]
    others: tuple[str, ...]
    program: tuple[str, ...] = PROGRAM

    def arguments(self) -> list[str]:
        """Return the program's arguments for a start now."""
        found = ["--resume"] if self.resume else []
        if self.deadline is not None:
            found += ["--deadline", f"{max(1.0, self.deadline.seconds_left()):.3f}s"]
        return [*found, *self.changes, *self.others]


class Signals:
    """Collects the signals that ask the run to stop; they are for its processes to obey."""

    def __init__(self) -> None:
        self._waiting: list[int] = []
        self.last: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._waiting.append(number)
        self.last = number

    def take(self) -> list[int]:
        """Return the signals that came since the last call."""
        taken, self._waiting = self._waiting, []
        return taken


def parse_options(argv: Sequence[str]) -> tuple[RunDir, Options]:
    """Return the run folder and the options of a supervisor's command line."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--deadline")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--program", type=parse_json, default=PROGRAM)
    found, others = parser.parse_known_args(argv)
    return RunDir.open(found.run_dir), Options(
        resume=found.resume,
        deadline=None if found.deadline is None else Deadline.parse(found.deadline),
        changes=tuple(word for change in found.set for word in ("--set", change)),
        others=tuple(others),
        program=tuple(found.program),
    )
