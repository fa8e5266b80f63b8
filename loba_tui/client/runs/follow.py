"""Stay with a program in the foreground: show its progress, hand on signals, tell how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from loba_tui.client.runs.events import describe_event
from loba_tui.client.runs.log_tail import last_lines
from loba_tui.client.runs.progress import Progress, Screen
from loba_tui.core.errors import (
    ExitCode,
    Interrupted,
    LobaError,
    PeerLost,
    ResourceError,
    Stopped,
)
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Event
from loba_tui.core.text import clean

POLL_SECONDS = 0.2


class Follower:
    """Follow one process, which works on the reader's run, until it ends.

    `saves` says whether it can go on later from where it is interrupted.
    """

    def __init__(
        self,
        reader: RunReader,
        process: subprocess.Popen[bytes],
        screen: Screen,
        *,
        saves: bool = True,
    ) -> None:
        self.run_dir = reader.run_dir
        self.events: list[Event] = []
        self._process = process
        self._screen = screen
        self._saves = saves
        self._reader = reader
        self._progress = Progress()
        self._signals: list[int] = []
        self._num_interrupts = 0

    def wait(self) -> int:
        """Show progress until the program has ended and return its exit status.

        SIGINT asks it to finish the step, save and end; a second one kills it. SIGTERM and
        SIGUSR1 are handed on. A hang-up ends only the viewer.
        """
        with _signals_into(self._signals):
            try:
                while (status := self._process.poll()) is None:
                    self._hand_on_signals()
                    self._look()
                    time.sleep(POLL_SECONDS)
                self._look()
            finally:
                self._screen.close()
        return status

    def _look(self) -> None:
        self._progress.update(self._reader.status(), self._reader.new_metrics())
        for event in self._reader.new_events():
            self.events.append(event)
            text = describe_event(event)
            if text:
                self._screen.message(text)
        self._screen.show(self._progress)

    def _hand_on_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            with suppress(ProcessLookupError):
                if number != signal.SIGINT:
                    self._process.send_signal(number)
                    continue
                self._num_interrupts += 1
                if self._num_interrupts == 1:
                    doing = "finishing the step and saving" if self._saves else "ending it"
                    self._screen.message(f"Interrupted: {doing}. Press Ctrl-C again to kill.")
                    self._process.send_signal(signal.SIGINT)
                else:
                    # The program leads a session, hence a process group, of its own.
                    os.killpg(self._process.pid, signal.SIGKILL)

    def failure(self, status: int) -> LobaError | None:
        """Return what to tell the user about an exit status; None if the program is done."""
        if status == 0:
            return None
        if self._num_interrupts > 1:
            return Stopped(f"Killed. What was saved is in {self.run_dir.path}.")
        if status == ExitCode.RESUMABLE:
            return self._resumable()
        if status == ExitCode.INTERRUPTED:
            told = next((e.data.get("message") for e in self.events if e.kind == "stopped"), None)
            return Stopped(clean(told or "Stopped before it was done."))
        kinds = ("failed", "resume_refused")
        failed = next((e for e in reversed(self.events) if e.kind in kinds), None)
        if failed is not None:
            return self._reported(failed, status)
        if self._num_interrupts == 1:
            return Stopped("Interrupted before the first step; there is nothing to resume.")
        return self._unreported(status)

    def _resumable(self) -> LobaError:
        """Return how a run has ended that can go on."""
        hint = f"Continue with: loba run --resume {self.run_dir.path}"
        kinds = ("started", "stopped", "peer_lost")
        last = next((each for each in reversed(self.events) if each.kind in kinds), None)
        told = last.data if last is not None else {}
        if last is not None and last.kind == "peer_lost":
            rank = told["rank"] if isinstance(told.get("rank"), int) else None
            message = clean(told.get("message") or "A process of the run was lost.")
            checks = clean(told.get("hint") or "")
            if rank is None and "--resume" not in checks:  # it says what to check of the network
                hint = f"{checks} {hint}"
            return PeerLost(message, hint, rank=rank, host=clean(told.get("host") or "", limit=80))
        step, saved = self._progress.step, told.get("saved_step")
        is_behind = isinstance(saved, int) and saved < step
        kept = f"all is saved up to step {saved}" if is_behind else "all is saved"
        return Interrupted(f"Stopped at step {step} of {self._progress.total}; {kept}.", hint)

    def _reported(self, failed: Event, status: int) -> LobaError:
        # The program's own message: what it was told has no line ends in there.
        message, *lines = str(failed.data.get("message", "The program failed.")).split("\n")
        hint = clean(failed.data.get("hint") or "", keep_newlines=True)
        error = LobaError(clean(message), hint, lines=list(map(clean, lines)))
        if ExitCode.RECIPE <= status <= ExitCode.REFUSED:
            error.exit_code = ExitCode(status)
        else:
            where = f"The traceback is in {self.run_dir.log}"
            error.hint = f"{hint}\n{where}" if hint else where
        return error

    def _unreported(self, status: int) -> LobaError:
        if status == -signal.SIGKILL:
            return ResourceError(
                "The program was killed; most often the machine has run out of memory.",
                f"Its last words are in {self.run_dir.log}",
            )
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return LobaError(
            f"The program ended with {how} and did not say why. Its log ends:",
            f"The whole log is {self.run_dir.log}",
            lines=[f"  {line}" for line in last_lines(self.run_dir)],
        )


@contextmanager
def _signals_into(received: list[int]) -> Iterator[None]:
    """Collect SIGINT, SIGTERM and SIGUSR1 instead of dying of them."""

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
