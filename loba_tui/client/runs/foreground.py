"""Start the program for a command, and stay with it until it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from subprocess import Popen

from loba_tui.client.notify import watcher
from loba_tui.client.runs.follow import Follower
from loba_tui.client.runs.progress import Screen
from loba_tui.core.run import launch
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Event


@dataclass(frozen=True)
class Foreground:
    """The starter of programs for a command; `open_screen` is called once for each program."""

    environ: Mapping[str, str]
    open_screen: Callable[[], Screen]
    program: Sequence[str] = launch.PROGRAM

    def run(self, run_dir: RunDir, argv_extra: Sequence[str] = ()) -> list[Event]:
        """Start the program on a run folder, stay until it ends, and return its events.

        Raises:
            LobaError: It did not finish; carries its message and exit code.
        """
        watcher.ensure(self.environ)
        return self._stay(
            run_dir, lambda: launch.launch(run_dir, argv_extra=argv_extra, program=self.program)
        )

    def detach(self, run_dir: RunDir, argv_extra: Sequence[str] = ()) -> None:
        """Start the program on a run folder and leave it to itself."""
        watcher.ensure(self.environ)
        launch.launch(run_dir, argv_extra=argv_extra, program=self.program)

    def request(self, folder: RunDir, wanted: launch.Request) -> list[Event]:
        """Start the program on a request, stay until it ends, and return its events.

        Raises:
            LobaError: It did not finish; carries its message and exit code.
        """
        return self._stay(
            folder, lambda: launch.request(folder, wanted, program=self.program), saves=False
        )

    def _stay(
        self, run_dir: RunDir, start: Callable[[], Popen[bytes]], *, saves: bool = True
    ) -> list[Event]:
        reader = RunReader(run_dir)
        # What an earlier program recorded in the same folder is not this one's doing.
        reader.skip_to_end()
        follower = Follower(reader, start(), self.open_screen(), saves=saves)
        failure = follower.failure(follower.wait())
        if failure is not None:
            raise failure
        return follower.events
