"""The `loba` command in a folder of its own, with the real program or with one that trains nothing.

A test file subclasses `Loba` where it needs more than to call it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import RunReader

COMMAND = (sys.executable, "-P", "-m", "loba_tui.cli")
STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_program.py")))
# A hang-up counts even where the tests themselves run under nohup.
DRIVER = f"""
import functools, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from loba_tui import cli
from loba_tui.client.runs import foreground
foreground.Foreground = functools.partial(foreground.Foreground, program={STAND_IN!r})
cli.main()
"""
COMMAND_WITH_STAND_IN = (sys.executable, "-c", DRIVER)


def slider_recipe(name: str, *, model: str = "{id: builtin:shapes-xl}") -> str:
    """Return the text of a small recipe; the stand-in behaves as its name says."""
    return f"""\
version: 1
name: {name}
base_model: {model}
method:
  name: text_slider
  concepts: [{{target: a shape, positive: a large shape, negative: a small shape}}]
"""


class Loba:
    """Runs the command in one folder and keeps what it records of its runs there."""

    def __init__(
        self,
        place: Path,
        command: Sequence[str] = COMMAND,
        *,
        timeout: float = 90,
        **environ: str,
    ) -> None:
        self.place, self.command, self.timeout = place, command, timeout
        self.environ = {**os.environ, "XDG_STATE_HOME": str(place / "state"), **environ}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            cwd=self.place,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=self.timeout,
        )

    def says(self, *arguments: str) -> str:
        """Return what a command that must succeed writes to stdout."""
        done = self(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def wait_until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.02)


def state(run_dir: RunDir) -> str:
    return RunReader(run_dir).liveness().state


def step(run_dir: RunDir) -> int:
    """Return the last step that a run has recorded, 0 before its first."""
    return max((metric.step for metric in RunReader(run_dir).new_metrics()), default=0)


def kill_run(run_dir: RunDir) -> None:
    """Kill the process of a run."""
    status = RunReader(run_dir).status()
    assert status is not None
    assert status.owner is not None
    os.kill(status.owner.pid, signal.SIGKILL)


def kill_runs(environ: Mapping[str, str]) -> None:
    """Kill what is left of the runs of a test."""
    for run_dir in Ledger.of_user(environ).runs():
        status = RunReader(run_dir).status()
        if RunReader(run_dir).liveness().is_alive and status and status.owner:
            os.kill(status.owner.pid, signal.SIGKILL)
