"""The terminal's side of a run directory: read what is there, follow what is added.

Nothing in a run directory is trusted to be whole: a torn last line is not there yet, a foreign
line is counted and skipped, a missing file is an empty one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from loba_tui.core.files import UnsafeFileError
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.run import owner
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.ranks import RankState, read_ranks, silence_sentence, silent_ranks
from loba_tui.core.run.records import Event, Metric, Owner, Status, decode

_Record = TypeVar("_Record", Metric, Event)

STALLED_SECONDS = 60.0
_PACE = ("usual_step", "longest_step")
_USUAL_STEPS, _LONGEST_STEPS = 10, 3
"""A step of so many usual ones, and so many of the longest, has stalled."""
_CHUNK_BYTES = 4 * 1024 * 1024
_MAX_LINE_BYTES = 64 * 1024 * 1024
_MAX_JSON_BYTES = 4 * 1024 * 1024

LivenessState = Literal[
    "queued",
    "starting",
    "running",
    "paused",
    "stalled",
    "finished",
    "stopped",
    "failed",
    "dead",
    "unknown",
]


@dataclass(frozen=True)
class Liveness:
    """Whether a run goes on, and why we think so."""

    state: LivenessState
    reason: str

    @property
    def is_alive(self) -> bool:
        """Say whether a process still works on the run."""
        return self.state in ("starting", "running", "paused", "stalled")


class RunReader:
    """Follow one run; `new_metrics` and `new_events` return what came since the last call.

    Attributes:
        num_foreign_lines: How many lines so far were not records.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self._metrics = Tail(run_dir.metrics)
        self._events = Tail(run_dir.events)
        self.num_foreign_lines = 0

    def skip_to_end(self) -> None:
        """Leave out everything that is there already."""
        self._metrics.skip_to_end()
        self._events.skip_to_end()

    def new_metrics(self) -> list[Metric]:
        """Return the steps recorded since the last call.

        After a resume, steps since the last checkpoint appear twice; the later record counts.
        """
        return self._read(self._metrics, Metric.from_json)

    def new_events(self) -> list[Event]:
        """Return the events recorded since the last call."""
        return self._read(self._events, Event.from_json)

    def _read(self, tail: Tail, parse: Callable[[dict[str, Any]], _Record]) -> list[_Record]:
        found = []
        for line in tail.new_lines():
            try:
                found.append(parse(decode(line)))
            except ValueError:
                self.num_foreign_lines += 1
        return found

    def status(self) -> Status | None:
        """Return what the program says it is doing, None where it has not said anything."""
        record = _read_object(self.run_dir.status)
        try:
            return None if record is None else Status.from_json(record)
        except ValueError:
            return None

    def _let_go(self, status: Status, process: Owner, age: float) -> Liveness:
        """Return what a run does whose lock is free: nothing here, whatever its status says."""
        found = _by_record(status, process, age)
        if process.host != owner.this_process().host or not found.is_alive:
            return found
        fresh = self.status()
        if fresh is not None and fresh.is_final:  # it ended between the two looks
            return Liveness(cast(LivenessState, fresh.phase), f"the program said {fresh.phase}")
        return Liveness("dead", f"process {process.pid} lives, but does not hold the run's lock")

    def _why_unreadable(self) -> str:
        try:
            self.run_dir.status.stat()
        except UnsafeFileError as error:
            return f"its status.json {error.strerror}"
        except OSError:
            pass
        return "the run has no readable status"

    def report(self) -> dict[str, Any] | None:
        """Return the measured effect of the finished adapter, None where there is none."""
        return _read_object(self.run_dir.report)

    def liveness(self, *, now: float | None = None) -> Liveness:
        """Find out whether a process still works on the run; a dead one is never called alive.

        Args:
            now: Wall time to compare the heartbeat with; None takes the clock.
        """
        status = self.status()
        held = self.run_dir.lock.is_locked(shared=True)
        if status is None:
            if held:
                return Liveness("starting", "the program has taken the run")
            return Liveness("unknown", self._why_unreadable())
        if status.is_final:
            state = cast(LivenessState, status.phase)
            return Liveness(state, f"the program said {status.phase}")
        # One in the future is as wrong as an old one.
        age = abs((time.time() if now is None else now) - status.heartbeat)
        if status.phase == "queued" and not held:
            return Liveness("queued", "it waits for its turn: `loba queue ls`")
        if status.owner is None:
            if held or age < STALLED_SECONDS:
                return Liveness("starting", "the program is being started")
            return Liveness("dead", "the program was launched but never took the run")
        if held is None:
            return _by_record(status, status.owner, age, read_ranks(self.run_dir))
        if not held:
            return self._let_go(status, status.owner, age)
        # The record of the lock is missing where a full disk did not take it, or old.
        holders = [owner.holder(self.run_dir.lock), status.owner]
        if all(each is None or owner.has_ended(each) for each in holders):
            # A forked worker can keep the lock of a process that is gone.
            who = f"process {status.owner.pid}"
            return Liveness("dead", f"{who} ended, but left a child behind")
        ranks = read_ranks(self.run_dir)
        return _heard(status, age, f"process {status.owner.pid}", ranks)


def _heard(status: Status, age: float, who: str, ranks: Sequence[RankState] = ()) -> Liveness:
    if age > STALLED_SECONDS:
        return Liveness("stalled", f"{who} lives, but has said nothing for {age:.0f} s")
    if status.phase == "paused":
        return Liveness("paused", f"{who} waits: `loba runs resume` lets it go on")
    if status.phase == "paused_disk":
        return Liveness("paused", f"{who} waits for the disk: {status.extra.get('disk', 'full')}")
    return _trouble(status, who, ranks) or Liveness("running", f"{who} works on it")


def _trouble(status: Status, who: str, ranks: Sequence[RankState]) -> Liveness | None:
    """Return what keeps a living program from going on, None where nothing does."""
    if silent := silent_ranks(ranks):
        return Liveness("stalled", silence_sentence(silent[0], ranks))
    if standing := _standing(status):
        return Liveness("stalled", f"{who} lives, but {standing}")
    return None


def _standing(status: Status) -> str:
    """Return how long a step has lasted that takes far longer than others; "" for none.

    Both times are of the program's own clock. Nothing is said of other phases, which take what they
    take, nor before the first step, which may compile.
    """
    moved, usual, longest = (status.extra.get(key) for key in ("moved", *_PACE))
    numbers = [each for each in (moved, usual, longest) if isinstance(each, int | float)]
    if status.phase != "training" or len(numbers) < 3:
        return ""
    since, usual_seconds, longest_seconds = numbers
    seconds = status.heartbeat - since
    limit = max(STALLED_SECONDS, _USUAL_STEPS * usual_seconds, _LONGEST_STEPS * longest_seconds)
    if not seconds > limit:
        return ""
    return (
        f"step {status.step + 1} has taken {seconds:.0f} s so far, and {usual_seconds:.3g} s are"
        " usual"
    )


def _by_record(
    status: Status, process: Owner, age: float, ranks: Sequence[RankState] = ()
) -> Liveness:
    who = f"process {process.pid}"
    here = owner.this_process()
    if process.host != here.host:
        if age < STALLED_SECONDS:
            heard = Liveness("running", f"{who} on {process.host} was heard {age:.0f} s ago")
            return _trouble(status, who, ranks) or heard
        return Liveness("unknown", f"{who} on {process.host} was last heard {age:.0f} s ago")
    if process.boot_id != here.boot_id:
        return Liveness("dead", f"the machine was restarted while {who} worked on it")
    if owner.has_ended(process):
        return Liveness("dead", f"{who} ended without a word: {_why_killed(status)}")
    return _heard(status, age, who, ranks)


def _why_killed(status: Status) -> str:
    before = status.extra.get("oom_kills")
    if isinstance(before, Mapping):
        now = owner.oom_kills(map(str, before))
        risen = [
            counter
            for counter, count in before.items()
            if isinstance(count, int) and now.get(counter, 0) > count
        ]
        if any(counter != str(owner.MACHINE_COUNTER) for counter in risen):
            return "killed by the kernel, as its memory limit was reached"
        if risen:
            return "killed, probably for want of memory: the kernel has killed processes for that"
    return "killed, or out of memory (the kernel's log knows)"


class Tail:
    """Complete lines that were appended to a file since the last look."""

    def __init__(self, file: OwnedFile) -> None:
        self._file = file
        self._offset = 0
        self._inode: int | None = None
        self._in_overlong_line = False

    def skip_to_end(self) -> None:
        """Stand behind the last whole line; a long file is not read for that."""
        try:
            stream = self._file.open()
        except OSError:
            return
        with stream:
            facts = os.fstat(stream.fileno())
            self._inode, self._offset, self._in_overlong_line = facts.st_ino, 0, False
            end, floor = facts.st_size, max(0, facts.st_size - _MAX_LINE_BYTES)
            while end > floor:
                start = max(floor, end - _CHUNK_BYTES)
                found = os.pread(stream.fileno(), end - start, start).rfind(b"\n")
                if found >= 0:
                    self._offset = start + found + 1
                    return
                end = start
            if floor:
                self._offset, self._in_overlong_line = facts.st_size, True

    def new_lines(self) -> Iterator[bytes]:
        """Yield the lines that are not blank; one that is longer than a chunk is left out."""
        try:
            stream = self._file.open()
        except OSError:
            return
        with stream:
            facts = os.fstat(stream.fileno())
            if facts.st_ino != self._inode or facts.st_size < self._offset:
                self._inode, self._offset, self._in_overlong_line = facts.st_ino, 0, False
            stream.seek(self._offset)
            num_lineless = 0
            while chunk := stream.read(_CHUNK_BYTES):
                end = chunk.rfind(b"\n") + 1
                if end == 0:
                    if len(chunk) < _CHUNK_BYTES:
                        return
                    # No record is this long; drop it up to its end rather than hold it. A file
                    # without any line can be of any length, and take none of the disk.
                    self._in_overlong_line = True
                    self._offset += len(chunk)
                    num_lineless += len(chunk)
                    if num_lineless >= _MAX_LINE_BYTES:
                        self._offset = stream.seek(0, os.SEEK_END)
                    continue
                self._offset += end
                stream.seek(self._offset)
                lines = chunk[:end].split(b"\n")[:-1]
                if self._in_overlong_line:
                    self._in_overlong_line = False
                    del lines[0]
                yield from (line for line in lines if line.strip())


def former_ending(run_dir: RunDir) -> dict[str, Any] | None:
    """Return the status that the last program of a run has left, as it is written.

    A program that was launched and never took the run leaves none of its own. None where no
    program has worked on the run.
    """
    record = _read_object(run_dir.status)
    former = record.get("former") if record is not None else None
    if isinstance(former, dict):
        record = former
    try:
        status = Status.from_json(record or {})
    except ValueError:
        return None
    return record if status.owner is not None or status.is_final else None


def _read_object(file: OwnedFile) -> dict[str, Any] | None:
    try:
        return decode(file.read(_MAX_JSON_BYTES))
    except (OSError, ValueError):
        return None
