"""Runs as lines of a list: read in the background, and only where a file has changed."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loba_tui.client.sweeps.mark import SweepMark
from loba_tui.client.sweeps.results import Result, result_of
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import Liveness, RunReader
from loba_tui.core.run.records import Event, Metric, Status, decode

_TAIL_BYTES = 32 * 1024
_NUM_PROBES = 24
_PROBE_BYTES = 2 * 1024
_HEAD_BYTES = 16 * 1024
_RATE_STEPS = 50
# `name:` at the left margin, as the resolved recipe is written.
_METHOD = re.compile(r"^method:\s*\n(?:[ #].*\n)*? +name: *(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class RunSummary:
    """One run as a line.

    Attributes:
        created: Wall time, 0.0 where unknown.
        losses: From the whole run, evenly spread; empty where none are recorded.
        rate: Steps a second over the last steps; None where nothing moves.
        memory_mib: Of the device, or of the process on a CPU.
        sweep: The sweep that it belongs to.
        result: Of a finished run of a sweep, what decides which of them is the best.
    """

    run: RunDir
    method: str
    liveness: Liveness
    status: Status | None
    created: float = 0.0
    losses: tuple[float, ...] = ()
    loss: float | None = None
    rate: float | None = None
    memory_mib: float | None = None
    device: str = ""
    has_adapter: bool = False
    sweep: SweepMark | None = None
    result: Result | None = None

    @property
    def step(self) -> int:
        """Return the steps done."""
        return self.status.step if self.status else 0

    @property
    def total(self) -> int:
        """Return the steps to do, 0 while unknown."""
        return self.status.total if self.status else 0

    @property
    def can_stop(self) -> bool:
        """Say whether there is something to stop: a program, or a place in the queue."""
        return self.liveness.is_alive or self.liveness.state == "queued"

    @property
    def eta_seconds(self) -> float | None:
        """Return the time to go at the present rate; None where nothing goes on."""
        is_moving = self.liveness.state in ("running", "paused", "stalled")
        if not is_moving or not self.rate or self.total <= 0:
            return None
        return max(0.0, (self.total - self.step) / self.rate)


@dataclass
class _Known:
    """Facts read of a run, with the stamps of the files that they were read from."""

    stamps: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    method: str = ""
    device: str = ""
    losses: tuple[float, ...] = ()
    last: Metric | None = None
    rate: float | None = None
    sweep: SweepMark | None = None


class RunSummaries:
    """Summaries of all runs of a ledger; each look costs what has changed since the last one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[Path, _Known] = {}
        self._settled: dict[Path, tuple[object, RunSummary]] = {}

    def look(self) -> list[RunSummary]:
        """Return all runs, newest first."""
        runs = list(reversed(self._ledger.runs()))
        for path in self._known.keys() - {run.path for run in runs}:
            self._known.pop(path, None)
            self._settled.pop(path, None)
        return [self._summary(run) for run in runs]

    def _summary(self, run: RunDir) -> RunSummary:
        """Return one run; a run that has ended is not read again while its status stays."""
        stamp = (_stamp(run.status), _stamp(run.metrics), _stamp(run.adapter))
        kept = self._settled.get(run.path)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        summary = self._read(run)
        if summary.status is not None and summary.status.is_final:
            self._settled[run.path] = (stamp, summary)
        else:
            self._settled.pop(run.path, None)
        return summary

    def _read(self, run: RunDir) -> RunSummary:
        known = self._known.setdefault(run.path, _Known())
        reader = RunReader(run)
        status, liveness = reader.status(), reader.liveness()
        if _has_changed(known, "recipe", run.recipe):
            known.method = _method(run.recipe)
        if _has_changed(known, "metrics", run.metrics):
            known.losses, known.last, known.rate = _metrics(run.metrics)
        if not known.device and _has_changed(known, "events", run.events):
            known.device = _device(run.events)
        if known.sweep is None and _has_changed(known, "sweep", run.sweep):
            known.sweep = SweepMark.read(run)
        last, mark = known.last, known.sweep
        return RunSummary(
            run=run,
            method=known.method,
            liveness=liveness,
            status=status,
            created=_created(run),
            losses=known.losses,
            loss=last.loss if last else None,
            rate=known.rate,
            memory_mib=last.memory_mib if last else None,
            device=known.device,
            has_adapter=run.adapter.is_there(),
            sweep=mark,
            result=result_of(mark.of(run)) if mark and liveness.state == "finished" else None,
        )


def _stamp(file: OwnedFile) -> tuple[int, int, int] | None:
    try:
        facts = file.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _has_changed(known: _Known, name: str, file: OwnedFile) -> bool:
    stamp = _stamp(file)
    if stamp is None or known.stamps.get(name) == stamp:
        return False
    known.stamps[name] = stamp
    return True


def _created(run: RunDir) -> float:
    """Return when a run was made: its name says so, whatever was written to it since."""
    match = re.search(r"-(\d{8}-\d{6})-[0-9a-f]{4}$", run.name)
    try:
        if match:
            return time.mktime(time.strptime(match[1], "%Y%m%d-%H%M%S"))
        return run.path.stat().st_ctime
    except (OSError, ValueError, OverflowError):
        return 0.0


def _method(recipe: OwnedFile) -> str:
    try:
        with recipe.open() as stream:
            text = stream.read(_HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    match = _METHOD.search(text)
    return match[1].strip("'\"") if match else ""


def _device(events: OwnedFile) -> str:
    """Return the device that the program said it runs on, "" where it has not said so."""
    try:
        with events.open() as stream:
            head = stream.read(4 * _HEAD_BYTES)
    except OSError:
        return ""
    for line in head.splitlines():
        try:
            event = Event.from_json(decode(line))
        except ValueError:
            continue
        if event.kind == "built" and event.data.get("device"):
            return str(event.data["device"])
    return ""


def _metrics(file: OwnedFile) -> tuple[tuple[float, ...], Metric | None, float | None]:
    """Return losses spread over the whole run, the last record and the rate of the last steps.

    A file of any length costs a few short reads: probes at even distances and its end.
    """
    try:
        with file.open() as stream:
            size = os.fstat(stream.fileno()).st_size
            if size <= _NUM_PROBES * _PROBE_BYTES:
                rows = _rows(stream.read(2 * _NUM_PROBES * _PROBE_BYTES), is_cut=False)
                losses = [row.loss for row in rows]
            else:
                losses = []
                for probe in range(_NUM_PROBES):
                    stream.seek(probe * (size - _TAIL_BYTES) // _NUM_PROBES)
                    found = _rows(stream.read(_PROBE_BYTES), is_cut=probe > 0)
                    losses += [row.loss for row in found]
                stream.seek(max(0, size - _TAIL_BYTES))
                rows = _rows(stream.read(2 * _TAIL_BYTES), is_cut=True)
                losses += [row.loss for row in rows]
    except OSError:
        return (), None, None
    known = tuple(loss for loss in losses if loss is not None)
    return known, rows[-1] if rows else None, _rate(rows)


def _rows(content: bytes, *, is_cut: bool) -> list[Metric]:
    """Return the whole records of a piece of the file."""
    lines = content.split(b"\n")[:-1]
    found = []
    for line in lines[1:] if is_cut else lines:
        try:
            found.append(Metric.from_json(decode(line)))
        except ValueError:
            continue
    return found


def _rate(rows: Sequence[Metric]) -> float | None:
    seconds = [row.seconds for row in rows[-_RATE_STEPS:] if row.seconds]
    return len(seconds) / sum(seconds) if seconds and sum(seconds) > 0 else None
