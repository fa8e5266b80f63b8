"""Starts the processes of a run on its hosts, and all of them anew where one is lost.

    python -m loba_tui.core.run.launching.supervisor --run-dir DIR [--resume] [OPTION...]

It takes the program's place: it is what `loba run` starts and waits for, and it ends with the exit
code that the run has ended with. How many processes there are, and where, is in `launch.json`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from loba_tui.core.errors import ExitCode, Interrupted, LobaError, PeerLost, ResourceError
from loba_tui.core.output import RecordHandler, start_log
from loba_tui.core.redact import Redactor
from loba_tui.core.run import control
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launch import PROGRAM
from loba_tui.core.run.launching.hosts import Keeper, Reach, meeting_of
from loba_tui.core.run.launching.network import (
    interface_of,
)
from loba_tui.core.run.launching.on_host import BEAT_SECONDS, Orders
from loba_tui.core.run.launching.options import Options, Signals, parse_options
from loba_tui.core.run.launching.shape import Host, LaunchShape
from loba_tui.core.run.launching.torchrun import Launch, torchrun_arguments
from loba_tui.core.run.launching.watch import LEAVE_SECONDS, Ending, Watch
from loba_tui.core.run.reader import RunReader, former_ending
from loba_tui.core.run.records import Status, encode
from loba_tui.core.run.writer import append_event
from loba_tui.core.text import counted

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_END_SECONDS = 15.0
_RETURN_SECONDS = 600.0
"""A host that is gone has so long to come back before a launch is given up."""
_RETRY_SECONDS = 5.0
# Of what a user's shell says, other hosts need this to compute the same. Never a token.
_HANDED_ON = ("HF_HUB_OFFLINE", "OMP_NUM_THREADS")
_MAX_RECIPE_BYTES = 16 * 1024 * 1024


class Supervisor:
    """Starts the processes of one run, as often as it takes."""

    def __init__(self, run_dir: RunDir, shape: LaunchShape, options: Options) -> None:
        self._run_dir = run_dir
        self._shape = shape
        self._options = options
        self._reach = Reach(shape.remote_python or sys.executable)
        self._signals = Signals()
        self._reader = RunReader(run_dir)
        self._reader.skip_to_end()

    def run(self) -> int:
        """Start the run, anew where a process is lost, and return the exit code it ends with.

        Raises:
            LobaError: It cannot be started.
        """
        self._require_fit()
        why = ""
        for restart in range(self._shape.restarts + 1):
            if restart:
                self._wait_for_hosts()
            launch = Launch(self._shape, meeting_of(self._shape, self._reach, restart))
            self._announce(launch, restart, why)
            ending = self._one_launch(launch)
            if ending.code is not None:
                return ending.code
            logger.warning("%s", ending.why)
            if self._signals.last is not None or self._is_stop_asked():
                return self._stopped(ending)
            why = ending.why
        return self._give_up(ending)

    def _announce(self, launch: Launch, restart: int, why: str) -> None:
        meeting = launch.meeting
        facts = {
            "hosts": [f"{host.name}:{host.slots}" for host in self._shape.hosts],
            "address": meeting.address,
            "port": meeting.port,
            "iface": self._shape.iface or interface_of(meeting.address),
        }
        if restart:
            self._event("relaunched", restart=restart, why=why, **facts)
        else:
            self._event("launched", **facts)

    def _one_launch(self, launch: Launch) -> Ending:
        keepers: list[Keeper] = []
        try:
            for place, host in enumerate(self._shape.hosts):
                orders = self._orders(launch, place)
                keepers.append(self._reach.start(host if place else None, orders))
            watch = Watch(self._reader, keepers, timeout=self._shape.timeout)
            ending = self._until(keepers, watch.look)
            assert ending is not None
            if ending.code is not None:
                self._until(keepers, lambda: _have_left(keepers), seconds=LEAVE_SECONDS)
        finally:
            for keeper in keepers:
                keeper.close()
            for keeper in keepers:
                keeper.end(_END_SECONDS)
        # What was changed is on record once the program has gone on from there.
        changes = () if watch.is_resumed else self._options.changes
        self._options = replace(self._options, resume=True, changes=changes)
        return ending

    def _until(
        self,
        keepers: Sequence[Keeper],
        look: Callable[[], Ending | None],
        seconds: float | None = None,
    ) -> Ending | None:
        """Keep the hosts alive and hand signals on until `look` returns an ending."""
        begin = time.monotonic()
        while (ending := look()) is None:
            for number in self._signals.take():
                for keeper in keepers:
                    keeper.signal(number)
            for keeper in keepers:
                keeper.beat(BEAT_SECONDS)
            if seconds is not None and time.monotonic() - begin > seconds:
                return None
            time.sleep(_POLL_SECONDS)
        return ending

    def _orders(self, launch: Launch, place: int) -> Orders:
        python = self._reach.python if place else sys.executable
        program = [
            python if self._options.program == PROGRAM else self._options.program[0],
            *self._options.program[1:],
            "--run-dir",
            str(self._run_dir.path),
            *self._options.arguments(),
        ]
        recipe = self._run_dir.recipe.read(_MAX_RECIPE_BYTES).decode() if place else None
        return Orders(
            argv=tuple(torchrun_arguments(launch, place, program, python=python)),
            mark=f"{self._run_dir.path}/{place}",
            folder=os.getcwd(),
            environ={key: os.environ[key] for key in _HANDED_ON if key in os.environ},
            iface=self._shape.iface,
            towards=launch.meeting.address,
            slots=self._shape.hosts[place].slots,
            recipe=recipe,
        )

    def _require_fit(self) -> None:
        for host in self._shape.hosts[1:]:
            self._reach.require_fit(host)

    def _wait_for_hosts(self) -> None:
        """Wait until all hosts answer: what was cut off may come back.

        Raises:
            PeerLost: One does not, for long.
            Interrupted: The run was asked to stop meanwhile.
        """
        begin = time.monotonic()
        waiting: list[Host] = list(self._shape.hosts[1:])
        while True:
            self._say_starting()
            try:
                while waiting:
                    self._reach.require_fit(waiting[0])
                    waiting.pop(0)
                return
            except ResourceError as error:
                if time.monotonic() - begin > _RETURN_SECONDS:
                    raise PeerLost(
                        f"{error.message} It was waited for {_RETURN_SECONDS / 60:.0f} minutes.",
                        f"Go on with: loba run --resume {self._run_dir.path}",
                        host=waiting[0].name,
                    ) from error
                logger.warning("%s", error.message)
            if self._signals.last is not None or self._is_stop_asked():
                raise Interrupted("The run was asked to stop while a host was waited for.")
            time.sleep(_RETRY_SECONDS)

    def _say_starting(self) -> None:
        """Let viewers know that the run goes on, at the step that it had reached."""
        self._write_phase("starting")

    def _is_stop_asked(self) -> bool:
        """Say whether a command to stop waits that no process is left to take."""
        return any(command.kind == "stop" for command in control.take(self._run_dir))

    def _stopped(self, ending: Ending) -> int:
        if not ending.is_told:
            message = f"stopped as asked, at the last checkpoint: {ending.why}"
            self._end("stopped", "stopped", message=message, exit_code=int(ExitCode.RESUMABLE))
        return ExitCode.RESUMABLE

    def _give_up(self, ending: Ending) -> int:
        if not ending.is_told or self._shape.restarts:
            times = counted(self._shape.restarts, "restart")
            self._end(
                "stopped",
                "peer_lost",
                rank=None,
                host="",
                message=f"{ending.why}; that was after {times}, and no more are made",
                hint=f"Look into log.txt; go on with: loba run --resume {self._run_dir.path}",
                exit_code=int(ExitCode.RESUMABLE),
            )
        return ExitCode.RESUMABLE

    def refuse(self, error: LobaError) -> int:
        """Record why the run does not go on, and return the exit code.

        A run that was to be resumed and has not been started keeps the ending that it had.
        """
        told: dict[str, object] = {"message": error.message, "hint": error.hint}
        told["exit_code"] = int(error.exit_code)
        former = former_ending(self._run_dir)
        if isinstance(error, Interrupted):
            self._end("stopped", "stopped", **told)
        elif isinstance(error, PeerLost):
            self._end("stopped", "peer_lost", rank=error.rank, host=error.host, **told)
        elif former is not None and self._options.resume:
            self._event("resume_refused", **told)
            self._run_dir.status.replace(encode(former))
        else:
            self._end("failed", "failed", **told)
        return error.exit_code

    def _end(self, phase: str, kind: str, **data: object) -> None:
        self._event(kind, **data)
        self._write_phase(phase)

    def _write_phase(self, phase: str) -> None:
        before = self._reader.status()
        step, total = (before.step, before.total) if before is not None else (0, 0)
        status = Status(phase, step, total, time.time())
        self._run_dir.status.replace(encode(status.as_json()))

    def _event(self, kind: str, **data: object) -> None:
        append_event(self._run_dir, kind, Redactor.of(os.environ).value(data))
        self._reader.new_events()  # its own words are no news


def _have_left(keepers: Sequence[Keeper]) -> Ending | None:
    return Ending(0) if all(keeper.status() is not None for keeper in keepers) else None


def main(argv: Sequence[str]) -> int:
    """Supervise the run of a folder."""
    logging.basicConfig(level=logging.INFO, handlers=[RecordHandler()])
    try:
        run_dir, options = parse_options(argv)
        run_dir.require_safe()
        shape = LaunchShape.read(run_dir)
        assert shape is not None, "a run without launch.json needs no supervisor"
        supervisor = Supervisor(run_dir, shape, options)
    except LobaError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    try:
        return supervisor.run()
    except LobaError as error:
        sys.stderr.write(f"{error}\n")
        return supervisor.refuse(error)


if __name__ == "__main__":
    os.umask(0o077)
    start_log(os.environ)
    sys.exit(main(sys.argv[1:]))
