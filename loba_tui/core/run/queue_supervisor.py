"""The process that starts queued runs in order, each once its device is free.

    python -m loba_tui.core.run.queue_supervisor FOLDER [PROGRAM...]

It is started on demand in a session of its own, holds the queue's lock, and ends with the queue.
The runs are sessions of their own too: they go on where it is killed, and the next one takes over.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loba_tui.core.errors import LobaError
from loba_tui.core.files import PRIVATE_FILE_MODE
from loba_tui.core.output import RecordHandler, start_log
from loba_tui.core.run import launch
from loba_tui.core.run.directory import Ledger
from loba_tui.core.run.queue import Entry, Queue
from loba_tui.core.run.reader import RunReader

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
# "Some CUDA device, or another": which one shows when the run has started.
_UNDECIDED = ("auto", "cuda:122")


@dataclass(frozen=True)
class Supervisor:
    """Starts what is queued."""

    queue: Queue
    program: Sequence[str]
    ledger: Ledger
    _children: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)

    def work(self) -> bool:
        """Do what can be done now; return whether anything is left to wait for."""
        self._reap()
        entries = self.queue.entries()
        taken = self._devices_in_use({entry.run.path for entry in entries})
        wanted: list[str] = []  # by what waits further ahead: nothing behind it overtakes it
        waiting = []
        for entry in entries:
            reader = RunReader(entry.run)
            # One that is alive and no child of ours was started by an earlier supervisor.
            if entry.path in self._children or (entry.was_started and reader.liveness().is_alive):
                taken.append(entry.slot or _told_device(reader, entry.device))
            elif self._is_over(entry):
                self.queue.remove(entry)
            else:
                waiting.append(entry)
        for entry in waiting:
            device = free_device(entry.devices, taken, wanted)
            if device is None:
                wanted += entry.devices
            else:
                taken.append(device)
                self._start(entry, device if entry.slots else "")
        return bool(entries or self._children)

    def _reap(self) -> None:
        """Take out the runs whose process has ended; one that was killed may go on."""
        for path, child in list(self._children.items()):
            status = child.poll()
            if status is None:
                continue
            logger.info("%s ended with %d", path.name, status)
            del self._children[path]
            entry = self.queue.at(path)
            if entry is None:
                continue
            said = RunReader(entry.run).status()
            was_killed = status < 0 and not (said is not None and said.is_final)
            if was_killed and entry.retries > 0:
                again = self.queue.mark_killed(entry, said)
                logger.info("%s goes on, %d times more", path.name, again.retries)
            else:
                self.queue.remove(entry)

    def _is_over(self, entry: Entry) -> bool:
        if not entry.run.recipe.is_there():
            logger.info("%s is gone", entry.run.path)
            return True
        state = RunReader(entry.run).liveness().state
        return state in ("finished", "stopped") or (entry.was_started and state == "failed")

    def _devices_in_use(self, queued: set[Path]) -> list[str]:
        """Return the devices of runs that go on without the queue."""
        devices = []
        for run_dir in self.ledger.runs():
            reader = RunReader(run_dir)
            if run_dir.path not in queued and reader.liveness().is_alive:
                devices.append(_told_device(reader, "auto"))
        return devices

    def _start(self, entry: Entry, slot: str) -> None:
        extra = list(entry.argv_extra)
        # It had its turn, and the machine went down: it goes on where it was.
        if entry.was_started and "--resume" not in extra:
            extra.append("--resume")
        try:
            started = self.queue.mark_started(entry, slot)
            self._children[entry.path] = launch.launch(
                entry.run,
                argv_extra=extra,
                program=self.program,
                environ={**os.environ, **started.start_environ},
                folder=entry.folder if Path(entry.folder).is_dir() else None,
            )
        except LobaError as error:
            logger.error("%s cannot be started: %s", entry.run.path, error)
            self.queue.remove(entry)
        else:
            logger.info("%s started: %s", started.path.name, entry.run.path)


def _told_device(reader: RunReader, otherwise: str) -> str:
    """Return the device that a started run has told."""
    status = reader.status()
    return str(status.extra.get("device", otherwise)) if status else otherwise


def free_device(devices: Sequence[str], taken: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the first device that has room for one more run, None where none has.

    Args:
        devices: Those that a run may take, each once for every run that may be there at once.
        taken: The devices of runs that go on, one for each.
        wanted: The devices that are kept for others.
    """
    for device in dict.fromkeys(devices):
        num_there = sum(shares_device(device, other) for other in taken)
        is_kept = any(shares_device(device, other) for other in wanted)
        if not is_kept and num_there < devices.count(device):
            return device
    return None


def shares_device(one: str, other: str) -> bool:
    """Say whether two runs may need the same device."""
    if one in _UNDECIDED or other in _UNDECIDED:
        return True
    one, other = ("cuda:0" if device == "cuda" else device for device in (one, other))
    return one == other


def supervise(queue: Queue, program: Sequence[str], ledger: Ledger) -> None:
    """Work until the queue is empty; return at once where another supervisor works."""
    queue.folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(queue.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE_MODE)
    try:
        # An entry that comes just as the lock is given up finds this loop's next round.
        while queue.entries():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            supervisor = Supervisor(queue, program, ledger)
            while supervisor.work():
                time.sleep(POLL_SECONDS)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def main(argv: Sequence[str]) -> int:
    """Supervise the queue in a folder."""
    logging.basicConfig(level=logging.INFO, handlers=[RecordHandler()])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    queue = Queue(Path(argv[0]))
    supervise(queue, argv[1:] or launch.PROGRAM, Ledger(queue.folder.parent / "runs.jsonl"))
    return 0


if __name__ == "__main__":
    start_log(os.environ)
    sys.exit(main(sys.argv[1:]))
