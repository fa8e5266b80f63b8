"""Writes that wait where the run's disk has no space, until it has."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from loba_tui.core.errors import Interrupted, LobaError
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.steering.context import RunContext
from loba_tui.core.run import disk


@dataclass(frozen=True)
class DiskWait:
    """Writes to a run's disk; a full one pauses the run and never ends it."""

    context: RunContext
    poll_seconds: float = field(default=5.0, kw_only=True)

    def persist(
        self, write: Callable[[], object], *, num_bytes: int, step: int, is_alone: bool = False
    ) -> None:
        """Write something to the run's disk; where it has no space, wait until it has.

        Args:
            write: Called on the first process; called again after a failure of the disk.
            is_alone: The other processes do not call this.

        Raises:
            Interrupted: The run was asked to stop while it waited.
            LobaError: The writing failed for another reason.
        """
        records = self.context.records
        processes = Processes() if is_alone else self.context.processes
        begin = time.monotonic()
        is_waiting = False
        phase = records.phase
        while (lack := processes.share(self._try(write, num_bytes, processes))) is not None:
            if not is_waiting:
                records.event("paused_disk", step=step, message=lack)
            is_waiting = True
            records.status(phase="paused_disk", disk=lack)
            self._wait(processes, step)
            begin = time.monotonic()
        self.context.stop.save_seconds = time.monotonic() - begin
        if is_waiting:
            records.event("continued", step=step)
            records.status(phase=phase, disk=None)

    def _try(self, write: Callable[[], object], num_bytes: int, processes: Processes) -> str | None:
        """Write on the first process; return what the disk lacks, None where all is well."""
        if not processes.is_first:
            return None
        folder = self.context.run_dir.path
        try:
            space = disk.space_for(folder, num_bytes)
            if not space.is_enough:
                return f"{space} on the disk of {folder}"
            write()
        except (OSError, LobaError) as error:
            trouble = disk.trouble_of(error)
            if trouble is None:
                raise
            return f"{folder}: {trouble.strerror}"
        return None

    def _wait(self, processes: Processes, step: int) -> None:
        context = self.context
        for _ in range(max(1, round(self.poll_seconds / context.poll_seconds))):
            is_stopped = self._refuse_all_but_stop()
            if processes.any(context.stop.is_set or is_stopped)[0]:
                raise Interrupted(
                    f"stopped at step {step}, which could not be saved: the disk has no room",
                    "Free some, and go on from the last checkpoint: loba run --resume RUN",
                )
            time.sleep(context.poll_seconds)

    def _refuse_all_but_stop(self) -> bool:
        """Answer the commands that come while the disk is full; say whether one was `stop`."""
        commands = self.context.take_commands()
        for command in commands:
            is_stop = command.kind == "stop"
            message = {} if is_stop else {"message": "the run waits for the disk; free some space"}
            self.context.records.event(
                "command", id=command.id, command=command.kind, accepted=is_stop, **message
            )
        return any(command.kind == "stop" for command in commands)
