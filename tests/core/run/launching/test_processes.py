"""Several processes on this machine: stopped, resumed in the same shape, and killed all at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from loba_command import Loba
from program_runs import shape_slider
from two_hosts import Followed, found_run

from loba_tui.core.errors import ExitCode
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launching.on_host import MARK
from loba_tui.core.run.writer import append_event

pytestmark = pytest.mark.slow


def started(loba: Loba, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*loba.command, "run", *arguments],
        cwd=loba.place,
        env=loba.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def marked(run: Followed) -> list[psutil.Process]:
    """Return the processes that a launch of a run has started on this machine."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == f"{run.run_dir.path}/0":
                found.append(process)
    return found


def test_a_run_of_two_processes_stops_goes_on_and_leaves_none_behind(tmp_path: Path) -> None:
    recipe = shape_slider(
        4,
        base_model={"id": "builtin:shapes-xl", "device": "cpu", "threads": 1},
        train={"steps": 2000, "batch_size": 1},
        save={"every": 5},
    )
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    loba = Loba(tmp_path)
    process = started(loba, "recipe.yaml", "--processes", "2")
    run = Followed(found_run(tmp_path / "output"), process)
    try:
        run.wait_for_step(3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == ExitCode.RESUMABLE
        assert not marked(run)

        run.process = process = started(loba, "--resume", str(run.run_dir.path))
        assert run.wait_for("built").data["num_processes"] == 2
        assert run.wait_for("resumed").data["step"] >= 3
        (supervisor,) = psutil.Process(process.pid).children()
        assert len(marked(run)) >= 3  # torchrun and its ranks
        supervisor.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        end = time.monotonic() + 10
        while marked(run):
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        if process.poll() is None:
            process.kill()
        for left in marked(run):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left.pid, signal.SIGKILL)


def test_a_run_does_not_change_its_number_of_processes_in_silence(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(shape_slider(4)))
    loba = Loba(tmp_path)
    loba("run", "recipe.yaml", "--processes", "2", "--print-launch", "slurm")
    (folder,) = (tmp_path / "output").iterdir()
    (folder / "checkpoints" / "step-000005").mkdir()
    append_event(RunDir(folder), "built", {"num_processes": 2})
    launch = (folder / "launch.json").read_bytes()
    told = loba("run", "--resume", str(folder), "--processes", "3", "--print-launch", "slurm")
    assert told.returncode == ExitCode.RECIPE
    assert "has 2 processes, and would go on with 3" in told.stderr
    assert (folder / "launch.json").read_bytes() == launch
    told = loba("run", "--resume", str(folder), "--restarts", "7", "--print-launch", "slurm")
    assert "seq 0 7" in told.stdout
    batch = ("--set", "train.global_batch_size=8")
    told = loba("run", "recipe.yaml", *batch, "--set", "train.batch_size=null", "--processes", "3")
    assert told.returncode == ExitCode.RECIPE
    assert "3 processes cannot share evenly" in told.stderr
    told = loba("run", "recipe.yaml", "--iface", "eth0", "--out-dir", "other")
    assert told.returncode == ExitCode.RECIPE
    assert "--iface is for a run of several processes" in told.stderr
