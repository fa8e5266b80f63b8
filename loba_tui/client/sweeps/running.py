"""The runs of a sweep in the queue: start, follow and stop them, and write down the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loba_tui.client.notify import watcher
from loba_tui.client.runs import steer
from loba_tui.client.sweeps.folder import Sweep
from loba_tui.client.sweeps.mark import SweepRun
from loba_tui.client.sweeps.results import Result, SweepReader, sweep_results
from loba_tui.client.sweeps.sheet import contact_sheet
from loba_tui.client.sweeps.table import as_csv
from loba_tui.core.errors import InUseError, LobaError
from loba_tui.core.run.queue import Queue
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import FINAL_PHASES
from loba_tui.core.text import clean

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class QueuedSweep:
    """A sweep whose runs are started by the queue of this machine.

    Args:
        program: What a run is started with.
    """

    sweep: Sweep
    queue: Queue
    environ: Mapping[str, str]
    program: Sequence[str]

    def start(self) -> int:
        """Queue every run that is neither finished nor queued nor alive; return how many.

        Raises:
            LobaError: One cannot be queued.
        """
        watcher.ensure(self.environ)
        settings = self.sweep.settings
        queued = {entry.run.path: entry for entry in self.queue.entries()}
        count = 0
        for each in self.sweep.runs:
            liveness = RunReader(each.run).liveness()
            entry = queued.get(each.run.path)
            if entry is not None and liveness.state in FINAL_PHASES:
                self.queue.remove(entry)  # the supervisor has not yet seen that it has ended
            elif entry is not None:
                continue
            if liveness.is_alive or liveness.state == "finished":
                continue
            if not each.run.recipe.is_there():  # the user has removed it
                continue
            self.queue.add(
                each.run,
                argv_extra=["--resume"] if each.run.events.is_there() else [],
                device=settings.slots[0],
                environ={**self.environ, **settings.environ},
                slots=settings.slots,
                retries=settings.retries,
            )
            count += 1
        self._see_to_it()
        return count

    def _see_to_it(self) -> None:
        if self.queue.entries() and not self.queue.is_supervised():
            self.queue.start_supervisor(program=self.program)

    def is_over(self) -> bool:
        """Say whether nothing of it is queued or alive; a supervisor that was killed is replaced.

        The last look at a run comes after that at the queue: one that has left it has ended.
        """
        paths = {each.run.path for each in self.sweep.runs}
        if any(entry.run.path in paths for entry in self.queue.entries()):
            self._see_to_it()
            return False
        return not any(RunReader(each.run).liveness().is_alive for each in self.sweep.runs)

    def follow(self, show: Callable[[Sequence[Result]], None]) -> None:
        """Show the runs until the sweep is over."""
        reader = SweepReader(self.sweep)
        while not self.is_over():
            show(reader.look())
            time.sleep(POLL_SECONDS)


def stop_sweep(sweep: Sweep, queue: Queue) -> list[str]:
    """Take what waits out of the queue, and have what is alive save and end; return what was done.

    What waits goes first, so that nothing takes the place of what ends.
    """
    told: list[str] = []
    alive: list[SweepRun] = []
    for each in sweep.runs:
        liveness = RunReader(each.run).liveness()
        if queue.find(each.run) is not None and not liveness.is_alive:
            try:
                steer.take_out(each.run, queue)
            except InUseError:  # it was started between the two looks
                alive.append(each)
            else:
                told.append(f"run {each.number} is taken out of the queue")
        elif liveness.is_alive:
            alive.append(each)
    for each in alive:
        try:
            told.append(f"run {each.number}: {steer.stop(each.run, queue)}")
        except LobaError as error:
            told.append(f"run {each.number}: {clean(error.message)}")
    return told


def conclude(sweep: Sweep) -> list[Result]:
    """Write sweep.json, table.csv and sheet.png as the sweep stands; return its runs, best first.

    Raises:
        ResourceError: The sweep's folder does not take them.
    """
    results = sweep_results(sweep)
    sweep.write([result.as_json() for result in results])
    sweep.save("table.csv", as_csv(results).encode())
    picture = contact_sheet(results)
    if picture is not None:
        sweep.save("sheet.png", picture)
    return results
