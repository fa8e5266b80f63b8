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
        slots: The devices that it may be started on, `cpu` or `cuda:N` as the machine counts them;
            one that stands there twice may hold two runs at once. Empty leaves the choice to the
            recipe, and then nothing else runs on the device.
        slot: Which of them it was started on.
        retries: How many times more it is resumed after its process was killed.
    """

    path: Path
    run: RunDir
    argv_extra: tuple[str, ...]
    device: str
    folder: str
    environ: Mapping[str, str]
    was_started: bool = False
    slots: tuple[str, ...] = ()
    slot: str = ""
    retries: int = 0

    @property
    def devices(self) -> tuple[str, ...]:
        """Return where it may run, one for each run that may be there at once."""
        return self.slots or (self.device,)

    @property
    def start_environ(self) -> dict[str, str]:
        """Return what its program's environment differs by."""
        found = dict(self.environ)
        if self.slot:
            kind, _, index = self.slot.partition(":")
            found["CUDA_VISIBLE_DEVICES"] = index if kind == "cuda" else ""
        return found

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
            "slots": list(self.slots),
            "slot": self.slot,
            "retries": self.retries,
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
                # Not in the entries of versions without slots.
                slots=tuple(map(str, record.get("slots", ()))),
                slot=str(record.get("slot", "")),
                retries=int(record.get("retries", 0)),
            )
        except (KeyError, TypeError, OverflowError) as error:
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
        slots: Sequence[str] = (),
        retries: int = 0,
    ) -> Entry:
        """Put a run at the end.

        Args:
            slots: See `Entry`.
            retries: How many times it is resumed after its process was killed.

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
            slots=tuple(slots),
            retries=retries,
        )
        run_dir.require_safe()
        run_dir.status.replace(encode(Status("queued", 0, 0, heartbeat=time.time()).as_json()))
        write_atomically(entry.path, encode(entry.as_json()))
        return entry

    def entries(self) -> list[Entry]:
        """Return what is queued, in order; what is not an entry is left out."""
        return [entry for path in self._paths() if (entry := self.at(path)) is not None]

    def at(self, path: Path) -> Entry | None:
        """Return the entry that is in a file; None where there is none any more."""
        with contextlib.suppress(OSError, ValueError):
            return Entry.read(path)
        return None

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]" * 8 + "-*.json"))

    def find(self, run_dir: RunDir) -> Entry | None:
        """Return the entry of a run."""
        return next((each for each in self.entries() if each.run.path == run_dir.path), None)

    def mark_started(self, entry: Entry, slot: str = "") -> Entry:
        """Note that a run has had its turn, and on which of its slots."""
        started = replace(entry, was_started=True, slot=slot)
        write_atomically(entry.path, encode(started.as_json()))
        return started

    def mark_killed(self, entry: Entry, said: Status | None) -> Entry:
        """Note that a run's process was killed; it waits for a slot again.

        Args:
            said: The last status of that process. One that had not yet taken the run would pass for
                a program that is being started.
        """
        waiting = replace(entry, retries=entry.retries - 1, slot="")
        step, total = (said.step, said.total) if said is not None else (0, 0)
        status = Status("queued", step, total, heartbeat=time.time())
        entry.run.status.replace(encode(status.as_json()))
        write_atomically(entry.path, encode(waiting.as_json()))
        return waiting

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
