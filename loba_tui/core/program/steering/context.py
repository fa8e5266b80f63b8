"""Context of a run that its parts share: folder, records, processes, and the request to stop."""

from __future__ import annotations

from dataclasses import dataclass

from loba_tui.core.plugins import Plugins
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.steering.stop import StopRequest
from loba_tui.core.run import control
from loba_tui.core.run.control import Command
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import Records


@dataclass(frozen=True)
class RunContext:
    """Context of a run, as one of its processes sees it.

    Attributes:
        records: Kept by the first process alone.
        poll_seconds: Between two looks while the run waits.
    """

    run_dir: RunDir
    records: Records
    processes: Processes
    stop: StopRequest
    plugins: Plugins
    poll_seconds: float = 0.25

    def take_commands(self) -> list[Command]:
        """Take the commands that wait, oldest first; processes other than the first take none."""
        if not self.processes.is_first:
            return []
        return control.take(
            self.run_dir,
            on_refused=lambda name, reason: self.records.event(
                "command", id=name.removesuffix(".json"), accepted=False, message=reason
            ),
        )
