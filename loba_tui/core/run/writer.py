"""The program's side of a run directory: the lock, and everything that is written to it.

A full disk is no reason to lose a run: records wait in memory until it takes them again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from loba_tui.core.errors import ResourceError
from loba_tui.core.files import PRIVATE_DIR_MODE, unwritable, write_all
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.redact import Redactor
from loba_tui.core.run import disk, owner
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import former_ending
from loba_tui.core.run.records import RECORD_VERSION, Status, encode

logger = logging.getLogger(__name__)

STATUS_INTERVAL_SECONDS = 0.2
HEARTBEAT_SECONDS = 1.0
_PACE_STEPS = 32
# Records that wait for a full disk; at a few hundred bytes each these are tens of thousands.
_MAX_WAITING_BYTES = 8 * 2**20


class Records:
    """Records of a run. Nothing is kept of them here; `RunWriter` keeps all of it."""

    phase = ""
    """What the run was last said to be doing."""
    step = 0
    """Steps done."""
    saved_step = 0
    """Step of the last checkpoint that this process knows of."""
    longest_step = 0.0
    """Seconds of the longest step so far, which tell a long step from one that hangs."""

    def metric(self, *, step: int, **values: Any) -> None:
        """Append the record of one step: loss, lr, grad_norm, seconds, memory_mib, forwards, ….

        Scalars of numpy and torch are accepted, but reading a device scalar waits for the device.
        """

    def event(self, kind: str, /, **data: Any) -> None:
        """Append something that happened, such as `saved`, `sampled`, `warning` or `failed`."""
        if kind in ("saved", "resumed"):
            self.saved_step = data.get("step", self.saved_step)

    def goes_on(self) -> None:
        """Say that the run is taken up: how an earlier program has ended counts no more."""

    def warn(self, message: str) -> None:
        """Append a warning that the user should see."""
        self.event("warning", message=message)

    def status(self, **facts: Any) -> None:
        """Update phase, step, total and whatever else is to be shown; the rest stays as it was."""

    def write_file(self, name: str, content: bytes, *, sync: bool = False) -> str:
        """Replace a file of the run's folder, whole or not at all; return its path."""
        return name


class NullWriter(Records):
    """The records of a process that is not its run's first, which writes for all of them.

    It only remembers where the process is.
    """

    def metric(self, *, step: int, **values: Any) -> None:
        """Take note of how long the step took."""
        self.longest_step = max(self.longest_step, values.get("seconds") or 0.0)

    def status(self, **facts: Any) -> None:
        """Take note of phase and step."""
        self.phase = facts.get("phase") or self.phase
        self.step = facts.get("step") or self.step

    def warn(self, message: str) -> None:
        """Log a warning, which may concern this process alone."""
        logger.warning(message)


class RunWriter(Records):
    """Append metrics and events and keep the status of a run that this process owns.

    A context manager; the run is in use until it is closed or the process ends. While it is open, a
    thread renews the status, so that a step of minutes is told from a process that hangs or died.
    """

    def __init__(self, run_dir: RunDir, lock: int, redactor: Redactor) -> None:
        # Made by `open`, which takes the lock.
        self._former = former_ending(run_dir)
        self.run_dir = run_dir
        self._lock = lock
        self._redact = redactor.value
        self._owner = owner.this_process()
        self._started = time.time()
        self.phase = "starting"
        self.step = 0
        self.longest_step = 0.0
        self._seconds: deque[float] = deque(maxlen=_PACE_STEPS)
        self._total = 0
        self._extra: dict[str, Any] = {}
        self._moved = self._started
        self._guard = threading.RLock()
        self._closing = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._status_written = float("-inf")
        self._status_pending = False
        self._metrics = _LineFile(run_dir.metrics)
        self._events = _LineFile(run_dir.events)

    @classmethod
    def open(cls, run_dir: RunDir, redactor: Redactor | None = None) -> RunWriter:
        """Take ownership of a run folder.

        Args:
            redactor: Takes secrets out of events and status; None knows what looks like a token.

        Raises:
            InUseError: Another process owns it.
            RefusedError: It has a link or the like where its own files belong.
            ResourceError: It cannot be written.
        """
        try:
            run_dir.path.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
            run_dir.prepare()
        except OSError as error:
            raise unwritable(run_dir.path, error) from error
        writer = cls(run_dir, owner.acquire(run_dir.lock), redactor or Redactor())
        for folder in (run_dir.folder, run_dir.samples, run_dir.adapter_dir, run_dir.best):
            folder.discard_staged()
        writer.status(phase="starting", oom_kills=owner.oom_kills())
        writer._heart.start()
        return writer

    def metric(self, *, step: int, **values: Any) -> None:
        """Append a line to metrics.jsonl."""
        if seconds := values.get("seconds"):
            with self._guard:
                self.longest_step = max(self.longest_step, seconds)
                self._seconds.append(seconds)
        self._metrics.append({"step": step, "time": time.time(), **values})

    def event(self, kind: str, /, **data: Any) -> None:
        """Append a line to events.jsonl, without secrets; any thread may do so."""
        super().event(kind, **data)
        record = {"version": RECORD_VERSION, "event": kind, "time": time.time()}
        with self._guard:
            self._events.append({**record, **self._redact(data)})

    def status(
        self,
        *,
        phase: str | None = None,
        step: int | None = None,
        total: int | None = None,
        **extra: Any,
    ) -> None:
        """Update status.json.

        A change of phase is written at once. A mere step is written when the last write is some
        tenths of a second old, so calling this every step is cheap.
        """
        with self._guard:
            shown = self._redact(extra)
            before = (self.phase, self.step, *(self._extra.get(key) for key in shown))
            # Images drawn, bytes fetched and the like are movement as well as a step is.
            if (phase or self.phase, step or self.step, *shown.values()) != before:
                self._moved = time.time()
            urgent = phase is not None and phase != self.phase
            self.phase = self.phase if phase is None else phase
            self.step = self.step if step is None else step
            self._total = self._total if total is None else total
            self._extra.update(shown)
            self._status_pending = True
            if urgent or time.monotonic() - self._status_written >= STATUS_INTERVAL_SECONDS:
                self.flush()

    def goes_on(self) -> None:
        """Forget the status of an earlier program."""
        self._former = None

    def refuse(self, **reason: Any) -> bool:
        """Leave the run as an earlier program has left it, and note why it does not go on.

        Returns False where there was no earlier program, or its run goes on already. Nothing but
        the end of this program may follow.
        """
        with self._guard:
            if self._former is None:
                return False
            self._closing.set()
            self.event("resume_refused", **reason)
            self.run_dir.status.replace(encode(self._former))
            self._status_pending = False
        return True

    def write_file(self, name: str, content: bytes, *, sync: bool = False) -> str:
        """Write a file beside the records."""
        file = self.run_dir.folder.file(name)
        file.replace(content, sync=sync)
        return str(file)

    def flush(self) -> None:
        """Write the status now."""
        with self._guard:
            # `moved` tells a viewer since when nothing has happened, however alive the process is.
            extra = {"started": self._started, "moved": self._moved, **self._pace(), **self._extra}
            status = Status(self.phase, self.step, self._total, time.time(), self._owner, extra)
            content = encode(status.as_json())
            try:
                self.run_dir.status.replace(content)
            except ResourceError as error:
                if disk.trouble_of(error) is None:
                    raise
                _overwrite(self.run_dir.status, content)
            self._status_written = time.monotonic()
            self._status_pending = False

    def _pace(self) -> dict[str, float]:
        """Return what a viewer compares the time since the last movement with, once it is known."""
        if not self._seconds:
            return {}
        usual = statistics.median(self._seconds)
        return {"usual_step": round(usual, 4), "longest_step": round(self.longest_step, 4)}

    def _beat(self) -> None:
        while not self._closing.wait(HEARTBEAT_SECONDS):
            if time.monotonic() - self._status_written >= HEARTBEAT_SECONDS:
                # What cannot be written is for the main thread to report.
                with contextlib.suppress(ResourceError), self._guard:
                    if not self._closing.is_set():
                        self.flush()

    def close(self) -> None:
        """Write what is pending and give the run free."""
        if self._lock < 0:
            return
        self._closing.set()
        if self._heart.is_alive():
            self._heart.join()
        try:
            if self._status_pending:
                self.flush()
        finally:
            self._metrics.close()
            self._events.close()
            with contextlib.suppress(OSError):
                os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def append_event(run_dir: RunDir, kind: str, data: Mapping[str, Any]) -> None:
    """Append an event to a run that no program owns now; `data` holds no secret."""
    events = _LineFile(run_dir.events)
    events.append({"version": RECORD_VERSION, "event": kind, "time": time.time(), **data})
    events.close()


class _LineFile:
    """An append-only file in which every line is one write, opened at the first line."""

    def __init__(self, file: OwnedFile) -> None:
        self._file = file
        self._descriptor = -1
        self._end = 0
        self._waiting = bytearray()

    def append(self, record: dict[str, Any]) -> None:
        self._waiting += encode(record)
        try:
            if self._descriptor < 0:
                self._open()
            while self._waiting:
                # What a full disk takes in part goes on where it was cut.
                num_written = os.write(self._descriptor, self._waiting)
                del self._waiting[:num_written]
                self._end += num_written
        except OSError as error:
            self._cut_back()
            if disk.trouble_of(error) is None:
                raise unwritable(self._file.path, error) from error
            self._drop_oldest()

    def _open(self) -> None:
        self._descriptor = self._file.descriptor(os.O_RDWR | os.O_APPEND | os.O_CREAT)
        self._end = os.fstat(self._descriptor).st_size
        if self._end > 0 and os.pread(self._descriptor, 1, self._end - 1) != b"\n":
            # A line that was cut short by a kill must not swallow the next one.
            self._waiting[:0] = b"\n"

    def _cut_back(self) -> None:
        """Remove what a write left behind that then failed: it will be written again."""
        with contextlib.suppress(OSError):
            if self._descriptor >= 0 and os.fstat(self._descriptor).st_size > self._end:
                os.ftruncate(self._descriptor, self._end)

    def _drop_oldest(self) -> None:
        excess = len(self._waiting) - _MAX_WAITING_BYTES
        if excess > 0:
            del self._waiting[: self._waiting.index(b"\n", excess) + 1]

    def close(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                write_all(self._descriptor, bytes(self._waiting))
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1


def _overwrite(file: OwnedFile, content: bytes) -> None:
    """Replace a file's content in place: a full disk often still takes what needs no new block."""
    with contextlib.suppress(OSError):
        descriptor = file.descriptor(os.O_WRONLY)
        try:
            # As long as what is there, so that one write leaves no remains of it behind.
            os.pwrite(descriptor, content.ljust(os.fstat(descriptor).st_size), 0)
        finally:
            os.close(descriptor)
