"""Who owns a run: an exclusive file lock, and enough about a process to know it again.

A lock alone does not survive network file systems, a pid alone is reused, and a start time alone
repeats after a reboot; together they say whether the process that wrote a status still lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loba_tui.core.errors import InUseError
from loba_tui.core.files import take_lock, unwritable
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.run.records import Owner, decode
from loba_tui.core.text import clean

# Counts the processes that the kernel killed for want of memory since boot.
MACHINE_COUNTER = Path("/proc/vmstat")
_MAX_RECORD_BYTES = 64 * 1024
# A reader that looks whether the lock is free holds it shared for some microseconds.
_LOCK_PATIENCE_SECONDS = 0.3


def this_process() -> Owner:
    """Return the record of the calling process."""
    pid = os.getpid()
    return Owner(pid, socket.gethostname(), process_start(pid), boot_id())


def boot_id() -> str | None:
    """Return what tells this boot of the machine from all others, None where unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def process_start(pid: int) -> float | None:
    """Return when a process started, in clock ticks since boot; None if it does not live.

    Where there is no /proc the answer is 0.0 for a process that lives.
    """
    try:
        # The second field is the command name in parentheses and may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        return 0.0 if _signal_reaches(pid) else None
    state, start = fields[0], fields[19]
    return None if state in "ZX" else float(start)


def _signal_reaches(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def oom_kills(counters: Iterable[str] | None = None) -> dict[str, int]:
    """Return how many processes the kernel has killed for want of memory so far, by counter.

    A rise tells how a process without last words ended.

    Args:
        counters: Files to read again, as returned earlier, perhaps by a process of another cgroup;
            None takes this process's own cgroup and the whole machine.
    """
    if counters is None:
        counters = [str(path) for path in (_memory_events(), MACHINE_COUNTER) if path is not None]
    return {
        counter: int(line.split()[1])
        for counter in counters
        for line in _lines(Path(counter))
        if line.startswith("oom_kill ")
    }


def _lines(counter: Path) -> list[str]:
    # Their names come from a run's status, which may be a stranger's.
    is_group = counter.is_relative_to("/sys/fs/cgroup") and ".." not in counter.parts
    if not is_group and counter != MACHINE_COUNTER:
        return []
    try:
        return counter.read_text().splitlines()
    except OSError:
        return []


def _memory_events() -> Path | None:
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in groups:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            return Path("/sys/fs/cgroup") / group.lstrip("/") / "memory.events"
        if "memory" in controllers.split(","):
            return Path("/sys/fs/cgroup/memory") / group.lstrip("/") / "memory.oom_control"
    return None


def holder(lock: OwnedFile) -> Owner | None:
    """Return the process that took the lock last, None where that is not on record."""
    try:
        return Owner.from_json(_record(lock))
    except (OSError, ValueError):
        return None


def _record(lock: OwnedFile) -> dict[str, Any]:
    return decode(lock.read(_MAX_RECORD_BYTES))


def find_holder(lock: OwnedFile) -> int | None:
    """Return the process of this machine that holds the lock, as a pidfd; None if none is found.

    It is known by the lock that it holds open, whatever is on record; a record only says where to
    look. The descriptor stands for that very process, so that its pid cannot have been given to
    another one meanwhile.
    """
    try:
        descriptor = lock.descriptor()
    except OSError:
        return None
    try:
        facts = os.fstat(descriptor)
        recorded = holder(lock)
        for pid in dict.fromkeys([*([recorded.pid] if recorded else []), *_locking(facts.st_ino)]):
            with contextlib.suppress(OSError, OverflowError):
                process = os.pidfd_open(pid)
                if _holds(pid, facts):
                    return process
                os.close(process)
    except AttributeError:  # no pidfd on this system
        return None
    finally:
        os.close(descriptor)
    return None


def _locking(inode: int) -> list[int]:
    """Return the processes that the kernel lists with an exclusive flock on an inode."""
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return []
    found = [row for row in rows if row[1:2] == ["FLOCK"] and row[3] == "WRITE"]
    return [int(row[4]) for row in found if row[5].endswith(f":{inode}") and int(row[4]) > 0]


def _holds(pid: int, lock: os.stat_result) -> bool:
    """Say whether a process has the file open, and an exclusive lock on it."""
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            facts = os.stat(f"/proc/{pid}/fd/{entry}")
            if (facts.st_dev, facts.st_ino) == (lock.st_dev, lock.st_ino):
                told = Path(f"/proc/{pid}/fdinfo/{entry}").read_text()
                if re.search(r"^lock:.*\bFLOCK\b.*\bWRITE\b", told, re.MULTILINE):
                    return True
    return False


def has_ended(process: Owner) -> bool:
    """Say whether a process of this host has ended for certain."""
    here = this_process()
    if process.host != here.host:
        return False
    if process.boot_id != here.boot_id:
        return True
    start = process_start(process.pid)
    return start is None or start != process.process_start


def acquire(lock: OwnedFile) -> int:
    """Take the exclusive lock of a run and return the descriptor that holds it.

    The lock is free as soon as the process ends, however it ends; it is never stolen.

    Raises:
        InUseError: Another process holds it.
        RefusedError: What is there in its place is not a plain file of this user.
        ResourceError: The lock file cannot be opened.
    """
    try:
        descriptor = lock.descriptor(os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise unwritable(lock.path, error) from error
    try:
        take_lock(descriptor, patience=_LOCK_PATIENCE_SECONDS)
    except OSError as error:
        os.close(descriptor)
        raise in_use(lock) from error
    record = {**vars(this_process()), "time": time.time()}
    # It only says who holds the lock: a full disk must not keep a run from its own folder.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(record).encode() + b"\n", 0)
    return descriptor


def in_use(lock: OwnedFile) -> InUseError:
    """Return the error that names who holds the lock."""
    try:
        record = _record(lock)
        process = Owner.from_json(record)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["time"]))
        who = f"process {process.pid} on {clean(process.host, limit=80)} since {since}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        who = "another process"
    return InUseError(
        f"{lock.folder} is in use by {who}.",
        "Wait for it, or stop it with `loba runs stop`.",
    )
