"""The progress of a run in one line of text, and where a foreground command shows it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TextIO

from loba_tui.core.run.records import MOST_COUNT, Metric, Status
from loba_tui.core.text import clean
from loba_tui.core.units import show_countdown, show_size

_RATE_WINDOW = 50
_PHASES_WITHOUT_STEPS = frozenset(
    {"starting", "loading", "encoding", "solving", "calibrating", "attacking", "measuring"}
)
_PHASES_OF_PROOF = frozenset({"calibrating", "measuring"})
_PHASES_OF_IMAGES = frozenset({"checking data", "encoding images"})
_CALM_SECONDS = 10.0


class Progress:
    """A run's progress as one line of text, as far as it is known."""

    def __init__(self) -> None:
        self.phase = "starting"
        self.step = 0
        self.total = 0
        self._measured: tuple[int, int] | None = None
        self._images: tuple[int, int] | None = None
        self._fetched: tuple[int, int] | None = None
        self._last: Metric | None = None
        self._seconds: deque[float] = deque(maxlen=_RATE_WINDOW)

    def update(self, status: Status | None, metrics: Sequence[Metric]) -> None:
        """Take in what a reader found since the last time."""
        if status is not None:
            self.phase, self.step, self.total = status.phase, status.step, status.total
            self._measured = _pair(status.extra.get("measured"), status.extra.get("to_measure"))
            self._images = _pair(status.extra.get("images"), status.extra.get("of_images"))
            self._fetched = _pair(status.extra.get("fetched"), status.extra.get("to_fetch"))
        for metric in metrics:
            self._last = metric
            if metric.seconds is not None and metric.seconds > 0:
                self._seconds.append(metric.seconds)
        # The status is written less often than the metrics.
        if metrics and self.phase == "training":
            self.step = max(self.step, metrics[-1].step)

    @property
    def num_tenths(self) -> int:
        """Return how many whole tenths are done."""
        if self.phase == "loading" and self._fetched is not None and self._fetched[1] > 0:
            return 10 * self._fetched[0] // self._fetched[1]
        return 10 * self.step // self.total if self.total > 0 else 0

    def text(self) -> str:
        """Return phase, step, loss, rate, time to go and memory, as far as they are known."""
        parts = [clean(self.phase, limit=20)]
        if self.phase in _PHASES_OF_PROOF and self._measured is not None:
            parts.append("{}/{} images".format(*self._measured))
        elif self.phase == "attacking" and self._measured is not None:
            parts.append("{:,}/{:,} UNet rows".format(*self._measured))
        elif self.phase in _PHASES_OF_IMAGES:
            parts += ["{}/{} images".format(*self._images)] if self._images is not None else []
        elif self.phase == "loading" and self._fetched and self._fetched[0] < self._fetched[1]:
            parts.append("fetched {} of {}".format(*map(show_size, self._fetched)))
        elif self.total > 0 and self.phase not in _PHASES_WITHOUT_STEPS:
            parts.append(f"{self.step}/{self.total}")
        if self.phase == "training" and self._last is not None:
            if self._last.loss is not None:
                parts.append(f"loss {self._last.loss:.4g}")
            if self._seconds:
                # The mean of the last steps, pauses and sampling left out.
                rate = len(self._seconds) / sum(self._seconds)
                parts.append(f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step")
                if self.total > 0:
                    parts.append(f"ETA {show_countdown((self.total - self.step) / rate)}")
        if self._last is not None and self._last.memory_mib is not None:
            parts.append(f"{self._last.memory_mib:,.0f} MiB")
        return "  ".join(parts)


def _pair(done: object, total: object) -> tuple[int, int] | None:
    if not (isinstance(done, int) and isinstance(total, int)):
        return None
    return (done, total) if max(abs(done), abs(total)) <= MOST_COUNT else None


class Screen(Protocol):
    """Where progress is shown."""

    def show(self, progress: Progress) -> None:
        """Show the present state; called several times a second."""

    def message(self, text: str) -> None:
        """Say something that stays on the screen."""

    def close(self) -> None:
        """Leave the last state standing."""


class PlainScreen:
    """Whole lines without any escape sequence, at a rate that suits a log file."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._phase = ""
        self._num_tenths = 0
        self._time = clock()

    def show(self, progress: Progress) -> None:
        """Write a line where the phase has changed, a tenth is done, or ten seconds have passed."""
        now = self._clock()
        due = (
            progress.phase != self._phase
            or progress.num_tenths > self._num_tenths
            or now >= self._time + _CALM_SECONDS
        )
        if due:
            self._phase, self._num_tenths, self._time = progress.phase, progress.num_tenths, now
            self.message(progress.text())

    def message(self, text: str) -> None:
        """Write a message, which stays one line whatever it holds."""
        self._stream.write(clean(text) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the lines as they are."""
