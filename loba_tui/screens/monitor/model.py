"""A run as the monitor shows it, read in the background; nothing here knows of widgets."""

from __future__ import annotations

import bisect
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from loba_tui.client.machine.rank_table import rank_records
from loba_tui.client.machine.state import Machine, MachineState, figures
from loba_tui.client.metrics.index import CHUNK_BYTES, RATE, SeriesIndex
from loba_tui.client.metrics.window import Window, window
from loba_tui.client.runs.events import event_line
from loba_tui.client.runs.log_tail import LogTail
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.ranks import read_ranks
from loba_tui.core.run.reader import Liveness, RunReader
from loba_tui.core.run.records import Event, Status
from loba_tui.widgets.chart import ChartData, Curve

_MOST_EVENTS = 1000
SMOOTHINGS = (0.9, 0.98, 0.998, 0.0)
_FIRST = ("loss", "validation_loss", "validation_training_loss", "lr", "grad_norm")
_LAST = (RATE, "memory_mib", "forwards", "seconds")
_LABELS = {
    "validation_loss": "validation loss",
    "validation_training_loss": "training loss at validation's noise",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "memory_mib": "memory, MiB",
    "forwards": "UNet rows",
    "seconds": "seconds a step",
}
# Where several fall into one cell, the first of these is shown.
MARKS = {
    "failed": "F",
    "peer_lost": "F",
    "stopped": "X",
    "warning": "!",
    "skipped": "!",
    "overfitting": "!",
    "sample_failed": "!",
    "steered": "*",
    "resumed": "R",
    "paused": "P",
    "paused_disk": "P",
    "continued": "R",
    "sampled": "i",
    "saved": "s",
}
_FAILURES = ("failed", "peer_lost", "resume_refused")
_RANK = {letter: rank for rank, letter in enumerate(dict.fromkeys(MARKS.values()))}


@dataclass(frozen=True)
class View:
    """Which part of a run the charts show, and how.

    Attributes:
        width: Steps from edge to edge; None shows the whole run.
        right: The step at the right edge; None follows the newest.
        smoothing: One of SMOOTHINGS; 0 draws no smoothed line.
        log_names: Series with a logarithmic axis.
    """

    width: float | None = None
    right: float | None = None
    smoothing: float = SMOOTHINGS[0]
    log_names: frozenset[str] = frozenset()

    def span(self, first: float, last: float) -> tuple[float, float]:
        """Return the steps at both edges for a run from `first` to `last`."""
        last = max(last, first + 1)
        if self.width is None:
            return first, last
        right = last if self.right is None else self.right
        return right - self.width, right

    def zoomed(self, factor: float, first: float, last: float) -> View:
        """Return a view of so many times the width, around the middle or the newest step."""
        left, right = self.span(first, last)
        width = max(4.0, (right - left) * factor)
        if width >= last - first:
            return replace(self, width=None, right=None)
        if self.right is None:
            return replace(self, width=width)
        middle = (left + right) / 2
        return replace(self, width=width, right=middle + width / 2)._within(first, last)

    def panned(self, share: float, first: float, last: float) -> View:
        """Return a view moved by a share of its width."""
        if self.width is None:
            return self
        _, right = self.span(first, last)
        return replace(self, right=right + share * self.width)._within(first, last)

    def _within(self, first: float, last: float) -> View:
        assert self.width is not None
        assert self.right is not None
        if self.right >= last:
            return replace(self, right=None)
        return replace(self, right=max(self.right, first + self.width))


@dataclass(frozen=True)
class Frame:
    """One look at a run."""

    run: RunDir
    status: Status | None
    liveness: Liveness
    names: tuple[str, ...] = ()
    steps: tuple[float, float] = (0.0, 0.0)
    share_read: float = 1.0
    is_behind: bool = False
    latest: dict[str, float] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    samples: tuple[OwnedFile, ...] = ()
    machine: MachineState | None = None
    ranks: tuple[Mapping[str, Any], ...] = ()
    outcome: str = ""
    failure: str = ""


class MonitorModel:
    """A run that is watched, with others laid over it.

    `look` reads what was appended, `charts` draws from the index; a lock keeps them apart, so both
    may be called from any thread.
    """

    def __init__(
        self, run: RunDir, compared: Sequence[RunDir], cache: Path, machine: Machine
    ) -> None:
        self.run, self.compared = run, tuple(compared)
        self._indexes = [SeriesIndex(each, cache) for each in (run, *compared)]
        self._machine = machine
        self._reader = RunReader(run)
        self._log = LogTail(run.log)
        self._events: deque[str] = deque(maxlen=_MOST_EVENTS)
        self._marked: list[tuple[float, str]] = []  # steps and letters, by step
        self._undated: list[tuple[float, str]] = []
        self._failure = ""
        self._lock = threading.Lock()

    @property
    def index(self) -> SeriesIndex:
        """Return the index of the run itself."""
        return self._indexes[0]

    def look(self) -> Frame:
        """Read what was appended since the last look; a long file takes several."""
        with self._lock:
            is_behind = False
            for index in self._indexes:
                # A torn end is no reason to look again at once.
                is_behind |= index.update() and index.num_unread > CHUNK_BYTES
            for event in self._reader.new_events():
                self._note(event)
            self._date_marks()
            status, liveness = self._reader.status(), self._reader.liveness()
            report = self._reader.report() if status is not None and status.is_final else None
            machine = self._machine.look(status.owner if status else None)
            return Frame(
                run=self.run,
                status=status,
                liveness=liveness,
                names=(*ordered(self.index.names), *figures(machine)),
                steps=self.index.steps(),
                share_read=self.index.share_read if is_behind else 1.0,
                is_behind=is_behind,
                latest=self._latest(),
                events=tuple(self._events),
                log=self._log.lines(),
                samples=tuple(self.run.strips()),
                machine=machine,
                ranks=tuple(rank_records(read_ranks(self.run))) if liveness.is_alive else (),
                outcome=str(report.get("outcome", "")) if report else "",
                failure=self._failure,
            )

    def _latest(self) -> dict[str, float]:
        found = {}
        for name in ("loss", "lr", "grad_norm", "memory_mib"):
            value = self.index.last_value(name)
            if value is not None:
                found[name] = value
        rate = self.index.recent_mean("seconds")
        if rate:
            found[RATE] = 1.0 / rate
        return found

    def _note(self, event: Event) -> None:
        self._events.append(event_line(event))
        if event.kind in ("started", *_FAILURES):
            self._failure = str(event.data.get("message", ""))
        letter = MARKS.get(event.kind)
        if letter is None:
            return
        step = event.data.get("step")
        if isinstance(step, int | float) and not isinstance(step, bool):
            bisect.insort(self._marked, (float(step), letter))
        else:
            self._undated.append((event.time, letter))

    def _date_marks(self) -> None:
        """Give events that name no step the one that was recorded last before them."""
        if self._undated and self.index.num_rows and self.index.num_unread <= CHUNK_BYTES:
            steps = self.index.steps_at(np.array([when for when, _ in self._undated]))
            for step, (_, letter) in zip(steps.tolist(), self._undated, strict=True):
                bisect.insort(self._marked, (step, letter))
            self._undated.clear()

    def charts(self, names: Sequence[str], view: View, num_cells: int) -> list[ChartData]:
        """Return what the charts of these series show in plots of so many cells."""
        with self._lock:
            return [self._chart(name, view, num_cells) for name in names]

    def _chart(self, name: str, view: View, num_cells: int) -> ChartData:
        if name not in self.index.names:
            return self._machine_chart(name, num_cells)
        num = 2 * num_cells
        first, last = view.span(*self.index.steps())
        windows = [
            window(index, name, first=first, last=last, num_columns=num, smoothing=view.smoothing)
            for index in self._indexes
        ]
        own = windows[0]
        return ChartData(
            title=_LABELS.get(name, name),
            facts=_facts(own, view, name),
            curves=tuple(_curve(each) for each in windows),
            is_log=name in view.log_names,
            is_bad=any(each.total_bad for each in windows),
            marks=self._marks(first, last, num_cells),
            ends=(f"{max(first, 0):.0f}", f"{last:.0f}"),
        )

    def _marks(self, first: float, last: float, num_cells: int) -> dict[int, str]:
        """Return the letter of each cell that has events."""
        found: dict[int, str] = {}
        begin = bisect.bisect_left(self._marked, first, key=itemgetter(0))
        end = bisect.bisect_right(self._marked, last, key=itemgetter(0))
        for step, letter in self._marked[begin:end]:
            cell = min(num_cells - 1, int((step - first) / (last - first) * num_cells))
            if cell not in found or _RANK[letter] < _RANK[found[cell]]:
                found[cell] = letter
        return found

    def _machine_chart(self, name: str, num_cells: int) -> ChartData:
        """Return a figure of the machine over the time for which it was watched."""
        history = list(self._machine.history)
        values = [figures(state).get(name, np.nan) for state in history]
        if not values:
            return ChartData(name)
        columns: list[list[float]] = [[] for _ in range(2 * num_cells)]
        begin, span = history[0].time, max(60.0, history[-1].time - history[0].time)
        for state, value in zip(history, values, strict=True):
            if np.isfinite(value):
                at = min(len(columns) - 1, int((state.time - begin) / span * len(columns)))
                columns[at].append(value)
        least = [min(column, default=np.nan) for column in columns]
        greatest = [max(column, default=np.nan) for column in columns]
        when = time.strftime("%H:%M", time.localtime(begin))
        right = time.strftime("%H:%M", time.localtime(begin + span))
        return ChartData(
            title=name,
            facts="" if np.isnan(values[-1]) else f"{values[-1]:.4g}",
            curves=(Curve(least, greatest),),
            ends=(when, right),
        )

    def close(self) -> None:
        """Remove what is temporary."""
        with self._lock:
            for index in self._indexes:
                index.close()


def ordered(names: Sequence[str]) -> list[str]:
    """Return series with the most asked for first and the machinery last."""
    return sorted(
        names,
        key=lambda name: (
            _FIRST.index(name) if name in _FIRST else len(_FIRST),
            _LAST.index(name) + 1 if name in _LAST else 0,
        ),
    )


def _curve(drawn: Window) -> Curve:
    return Curve(
        drawn.least.tolist(), drawn.greatest.tolist(), drawn.smooth.tolist(), drawn.num_bad.tolist()
    )


def _facts(drawn: Window, view: View, name: str) -> str:
    words = ["log"] if name in view.log_names else []
    if drawn.last_value is not None:
        words.append(f"{drawn.last_value:.4g}")
    if drawn.total_bad:
        words.append(f"{drawn.total_bad} not finite")
    if view.smoothing and drawn.last_smooth is not None:
        words.append(f"~{drawn.last_smooth:.4g}")
    return "  ".join(words)
