"""How a program's end is told in the foreground."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loba_tui.client.runs.follow import Follower
from loba_tui.client.runs.progress import PlainScreen
from loba_tui.core.errors import ExitCode, Interrupted, LobaError, PeerLost
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.writer import RunWriter

LOST = {
    "rank": 1,
    "host": "hostb",
    "message": "rank 1 on hostb was lost at step 812; all is saved up to step 800",
    "hint": "Go on from the last checkpoint with: loba run --resume RUN",
    "exit_code": 75,
}


def ending(run_dir: RunDir, code: int, *events: tuple[str, dict[str, Any]]) -> LobaError:
    """Return what is told of a program that says this and ends with this code."""
    with RunWriter.open(run_dir) as writer:
        writer.status(phase="training", step=812, total=1000)
        for kind, data in events:
            writer.event(kind, **data)
    command = [sys.executable, "-S", "-c", f"raise SystemExit({code})"]
    with subprocess.Popen(command) as process:
        follower = Follower(RunReader(run_dir), process, PlainScreen(io.StringIO()))
        failure = follower.failure(follower.wait())
    assert failure is not None
    return failure


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "run")


def test_a_lost_process_is_told_with_rank_host_and_what_is_saved(run_dir: RunDir) -> None:
    found = ending(run_dir, 75, ("started", {}), ("peer_lost", LOST))
    assert isinstance(found, PeerLost)
    assert found.message == LOST["message"]
    assert found.hint == f"Continue with: loba run --resume {run_dir.path}"
    assert (found.rank, found.host, found.exit_code) == (1, "hostb", ExitCode.RESUMABLE)


def test_a_loss_that_was_mended_is_not_the_ending(run_dir: RunDir) -> None:
    events = [("started", {}), ("peer_lost", LOST), ("started", {}), ("stopped", {"exit_code": 75})]
    found = ending(run_dir, 75, *events)
    assert isinstance(found, Interrupted)
    assert found.message == "Stopped at step 812 of 1000; all is saved."


def test_processes_that_did_not_come_together_are_told_what_to_check(run_dir: RunDir) -> None:
    told = {"rank": None, "message": "they did not", "hint": "Check the interface.", "host": ""}
    found = ending(run_dir, 75, ("peer_lost", told))
    assert isinstance(found, PeerLost)
    assert found.hint.startswith("Check the interface. Continue with: loba run --resume")


def test_a_process_that_left_by_itself_has_saved_up_to_its_checkpoint(run_dir: RunDir) -> None:
    found = ending(run_dir, 75, ("stopped", {"exit_code": 75, "step": 812, "saved_step": 800}))
    assert found.message == "Stopped at step 812 of 1000; all is saved up to step 800."


def test_a_refused_resume_is_told_with_its_own_exit_code(run_dir: RunDir) -> None:
    told = {"message": "the run had 2 processes, and here is one", "hint": "Start 2."}
    found = ending(run_dir, 2, ("resume_refused", told))
    assert (found.message, found.hint) == (told["message"], told["hint"])
    assert found.exit_code == ExitCode.RECIPE
