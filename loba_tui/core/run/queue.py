"""The queue: runs that wait for their device, as one small file each in the user's state folder.

The files are all there is: a supervisor process takes them in order and is started when it is
needed, so that neither a closed terminal nor a restarted machine loses a place in the queue.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loba_tui.core.errors import ResourceError
from loba_tui.core.files import PRIVATE_DIR_MODE, is_locked, open_to_append, write_atomically
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.launch import PROGRAM, start_detached
from loba_tui.core.run.reader import Liveness, RunReader
from loba_tui.core.run.records import FINAL_PHASES, RECORD_VERSION, Status, decode, encode

SUPERVISOR = (sys.executable, "-P", "-m", "loba_tui.core.run.queue_supervisor")
# What a run needs to know of the shell that queued it. Never a token: this is written to disk.
KEPT_ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Entry:
    """One run that waits, or that the supervisor has started.

    Attributes:
        path: The entry's own file.
        device: As the recipe has it.
        folder: The working directory of the command that queued it.
        environ: Those of KEPT_ENVIRONMENT that were set.
        was_started: Whether it has had its turn already.
    """

    path: Path
    run: RunDir
    argv_extra: tuple[str, ...]
    device: str
    folder: str
    environ: Mapping[str, str]
    was_started: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the content of the entry's file."""
        return {
            "version": RECORD_VERSION,
            "run": str(self.run.path),
            "argv_extra": list(self.argv_extra),
            "device": self.device,
            "folder": self.folder,
            "environ": dict(self.environ),
            "was_started": self.was_started,
        }

    @classmethod
    def read(cls, path: Path) -> Entry:
        """Read an entry; raise ValueError or OSError where it is not one."""
        record = decode(path.read_bytes())
        if record.get("version") != RECORD_VERSION:
            raise ValueError(f"not a queue entry of version {RECORD_VERSION}")
        try:
            return cls(
                path=path,
                run=RunDir(Path(record["run"])),
                argv_extra=tuple(map(str, record["argv_extra"])),
                device=str(record["device"]),
                folder=str(record["folder"]),
                environ={k: str(record["environ"][k]) for k in record["environ"]},
                was_started=bool(record["was_started"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a queue entry: {error!r}") from error

    def liveness(self) -> Liveness:
        """Return what the run does, with "interrupted" for one that had begun and is dead."""
        liveness = RunReader(self.run).liveness()
        if self.was_started and not liveness.is_alive and liveness.state not in FINAL_PHASES:
            return Liveness("dead", f"interrupted, resumable: {liveness.reason}")
        return liveness


@dataclass(frozen=True)
class Queue:
    """The user's queue on this machine."""

    folder: Path

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> Queue:
        """Return the queue in the user's state folder, beside the ledger."""
        return cls(Ledger.of_user(environ).path.parent / "queue")

    @property
    def lock(self) -> Path:
        """Return the file whose lock the supervisor holds."""
        return self.folder / "supervisor.lock"

    def add(
        self,
        run_dir: RunDir,
        *,
        argv_extra: Sequence[str],
        device: str,
        environ: Mapping[str, str],
    ) -> Entry:
        """Put a run at the end.

        Raises:
            RefusedError: Something in the run's folder is not this user's own file or folder.
            ResourceError: The state folder cannot be written.
        """
        try:
            self.folder.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(f"{self.folder} cannot be made: {error.strerror}") from error
        number = 1 + max((int(path.name[:8]) for path in self._paths()), default=0)
        entry = Entry(
            path=self.folder / f"{number:08d}-{secrets.token_hex(4)}.json",
            run=run_dir,
            argv_extra=tuple(argv_extra),
            device=device,
            folder=str(Path.cwd()),
            environ={name: environ[name] for name in KEPT_ENVIRONMENT if name in environ},
        )
        run_dir.require_safe()
        run_dir.status.replace(encode(Status("queued", 0, 0, heartbeat=time.time()).as_json()))
        write_atomically(entry.path, encode(entry.as_json()))
        return entry

    def entries(self) -> list[Entry]:
        """Return what is queued, in order; what is not an entry is left out."""
        found = []
        for path in self._paths():
            with contextlib.suppress(OSError, ValueError):
                found.append(Entry.read(path))
        return found

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]" * 8 + "-*.json"))

    def find(self, run_dir: RunDir) -> Entry | None:
        """Return the entry of a run."""
        return next((each for each in self.entries() if each.run.path == run_dir.path), None)

    def mark_started(self, entry: Entry) -> Entry:
        """Note that a run has had its turn."""
        started = replace(entry, was_started=True)
        write_atomically(entry.path, encode(started.as_json()))
        return started

    def remove(self, entry: Entry) -> None:
        """Take an entry out; the run itself stays as it is."""
        entry.path.unlink(missing_ok=True)

    def is_supervised(self) -> bool:
        """Say whether a supervisor is at work."""
        return bool(is_locked(self.lock, shared=True))

    def start_supervisor(self, *, program: Sequence[str] = PROGRAM) -> None:
        """Start a supervisor in a session of its own; it ends at once where there is one.

        Raises:
            ResourceError: It cannot be started.
        """
        try:
            self.folder.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
            argv = [*SUPERVISOR, str(self.folder), *program]
            start_detached(argv, open_to_append(self.folder / "log.txt"), folder="/")
        except OSError as error:
            raise ResourceError(
                f"The queue's supervisor cannot be started: {error.strerror or error}."
            ) from error
