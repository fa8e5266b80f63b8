"""See how a launch goes: what the run's first process records, and what the hosts say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from loba_tui.core.errors import ExitCode
from loba_tui.core.run.launching.hosts import Keeper
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Event

HOST_PATIENCE_SECONDS = 5.0
"""After a host has failed, the first process has so long to say why."""
LEAVE_SECONDS = 30.0
"""After the run has ended, its processes have so long to leave."""
_STATUS_PATIENCE_SECONDS = 5.0

_ENDINGS = {
    "finished": ExitCode.DONE,
    "stopped": ExitCode.RESUMABLE,
    "failed": ExitCode.BUG,
    "resume_refused": ExitCode.RECIPE,
}


@dataclass(frozen=True)
class Ending:
    """How a launch has ended.

    Attributes:
        code: The exit code of the run; None where a process was lost.
        why: What was lost.
        is_told: Whether the run's first process has recorded it.
    """

    code: int | None
    why: str = ""
    is_told: bool = True


class Watch:
    """Watches one launch; `look` is asked again and again until it returns an ending.

    Torchrun's exit status says that something failed, never what: the run's events do.
    """

    def __init__(self, reader: RunReader, keepers: Sequence[Keeper], *, timeout: float) -> None:
        self._reader = reader
        self._keepers = keepers
        self._timeout = timeout
        self._began = time.time()
        self._failed_at: float | None = None
        self.is_resumed = False

    def look(self) -> Ending | None:
        """Return how the launch has ended, None while it goes on."""
        # Asked before the events, so that the last words of one that has ended are not missed.
        statuses = [keeper.status() for keeper in self._keepers]
        for event in self._reader.new_events():
            self.is_resumed = self.is_resumed or event.kind == "resumed"
            ending = _ending_of(event)
            if ending is not None:
                return ending
        if all(status is not None for status in statuses):
            return Ending(None, self._which_failed(statuses), is_told=False)
        if any(statuses):
            now = time.monotonic()
            self._failed_at = self._failed_at or now
            if now - self._failed_at > HOST_PATIENCE_SECONDS:
                return Ending(None, self._which_failed(statuses), is_told=False)
        return self._silence()

    def _which_failed(self, statuses: Sequence[int | None]) -> str:
        found = [
            f"the processes on {keeper.name} ended with exit status {status}"
            for keeper, status in zip(self._keepers, statuses, strict=True)
            if status
        ]
        return found[0] if found else "all processes ended without a word"

    def _silence(self) -> Ending | None:
        """Return the ending where the first process itself, which tells of others, is silent."""
        status = self._reader.status()
        if status is None or status.owner is None or status.heartbeat < self._began:
            return None
        silent = time.time() - status.heartbeat
        if silent <= self._timeout + _STATUS_PATIENCE_SECONDS:
            return None
        return Ending(None, f"the first process has been silent for {silent:.0f} s", is_told=False)


def _ending_of(event: Event) -> Ending | None:
    if event.kind == "peer_lost":
        return Ending(None, str(event.data.get("message", "a process was lost")))
    if event.kind not in _ENDINGS:
        return None
    code = event.data.get("exit_code")
    return Ending(code if isinstance(code, int) else _ENDINGS[event.kind])
