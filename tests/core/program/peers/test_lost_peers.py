"""Two processes train one run over gloo, and one of them is killed, stopped or cut off."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hurt_processes import process_group, said_by
from program_runs import adapter_hashes, events, new_run, shape_slider

from loba_tui.core.errors import ExitCode
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.ranks import read_ranks
from loba_tui.core.run.reader import RunReader

TIMEOUT = 10
IN_A_HURRY = """
import sys
from loba_tui.core.program.peers import watch
watch.GRACE_SECONDS = 2.0
from loba_tui.core.program import main
sys.exit(main.main())
"""
ONE_OF_TWO = """
import os, time
from loba_tui.core.errors import ResourceError
from loba_tui.core.program.training.trainer import Trainer

its_step = Trainer._one_step

def one_step(self):
    if os.environ["RANK"] == "1" and self.step == 3:
        {what}
    return its_step(self)

Trainer._one_step = one_step
"""
FAILS_ALONE = 'raise ResourceError("out of memory on cuda:1", "Take a smaller batch.")'
HANGS = "time.sleep(1000)"
RECIPE = shape_slider(
    4,
    train={"steps": 30, "batch_size": 1},
    save={"every": 5},
    sample={"prompts": ["a red circle"], "scales": [0, 1], "steps": 1},
    proof={"enabled": False},
    parallel={"timeout": TIMEOUT},
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def last_event(run_dir: RunDir) -> dict[str, Any]:
    return events(run_dir)[-1]


def require_lost(run_dir: RunDir, rank: int) -> None:
    told = last_event(run_dir)
    assert told["event"] == "peer_lost", told
    assert (told["rank"], told["host"]) == (rank, socket.gethostname())
    assert told["exit_code"] == ExitCode.RESUMABLE
    saved = events(run_dir, "saved")[-1]["step"]
    assert f"rank {rank} on {socket.gethostname()} was lost at step " in told["message"]
    assert told["message"].endswith(f"all is saved up to step {saved}")
    assert "loba run --resume" in told["hint"]
    assert RunReader(run_dir).liveness().state == "stopped"


def test_a_run_that_lost_its_peers_goes_on_to_the_same_adapter(tmp_path: Path) -> None:
    undisturbed = new_run(RECIPE, tmp_path / "undisturbed")
    with process_group(undisturbed) as group:
        codes = [process.wait(150) for process in group.processes]
    assert codes == [ExitCode.DONE, ExitCode.DONE]

    run_dir = new_run(RECIPE, tmp_path / "hurt")
    with process_group(run_dir) as group:  # a process is killed
        group.wait_for_steps(6)
        group[1].send_signal(signal.SIGKILL)
        assert group[0].wait(TIMEOUT + 30) == ExitCode.RESUMABLE
    require_lost(run_dir, 1)
    assert "Traceback" not in said_by(run_dir, 0).read_text()

    with process_group(run_dir, resume=True) as group:  # one hangs, and is silent
        group.wait_for_steps(6)
        group[1].send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        assert group[0].wait(TIMEOUT + 30) == ExitCode.RESUMABLE
        assert time.monotonic() - begin > TIMEOUT / 2
        ranks = read_ranks(run_dir)
        assert [(each.rank, each.pid) for each in ranks] == [(0, group[0].pid), (1, group[1].pid)]
        assert ranks[0].heartbeat - ranks[1].heartbeat > TIMEOUT / 2
    require_lost(run_dir, 1)

    with process_group(run_dir, resume=True) as group:  # the one that keeps the records is killed
        group.wait_for_steps(6)
        group[0].send_signal(signal.SIGKILL)
        assert group[1].wait(TIMEOUT + 30) == ExitCode.RESUMABLE
    require_lost(run_dir, 0)

    with process_group(run_dir, resume=True) as group:
        codes = [process.wait(150) for process in group.processes]
    assert codes == [ExitCode.DONE, ExitCode.DONE]
    assert adapter_hashes(run_dir) == adapter_hashes(undisturbed)


def test_a_stop_is_heard_in_a_collective_that_waits_for_ever(tmp_path: Path) -> None:
    patient = RECIPE.parallel.model_copy(update={"timeout": 600})
    run_dir = new_run(RECIPE.model_copy(update={"parallel": patient}), tmp_path)
    with process_group(run_dir, program=("-c", IN_A_HURRY)) as group:
        group.wait_for_steps(6)
        group[1].send_signal(signal.SIGSTOP)
        time.sleep(1)
        group[0].send_signal(signal.SIGTERM)
        assert group[0].wait(60) == ExitCode.RESUMABLE
    require_lost(run_dir, 1)


def test_the_error_of_one_process_is_that_of_the_run(tmp_path: Path) -> None:
    run_dir = new_run(RECIPE, tmp_path)
    program = ONE_OF_TWO.format(what=FAILS_ALONE) + IN_A_HURRY
    with process_group(run_dir, program=("-c", program)) as group:
        codes = [process.wait(150) for process in group.processes]
    assert codes == [ExitCode.RESOURCES, ExitCode.RESOURCES]
    told = last_event(run_dir)
    assert told["event"] == "failed"
    host = socket.gethostname()
    assert told["message"] == f"rank 1 on {host}: out of memory on cuda:1"
    assert told["hint"] == "Take a smaller batch."


def test_a_stop_that_no_step_answers_is_told(tmp_path: Path) -> None:
    patient = RECIPE.parallel.model_copy(update={"timeout": 600})
    run_dir = new_run(RECIPE.model_copy(update={"parallel": patient}), tmp_path)
    program = ONE_OF_TWO.format(what=HANGS) + IN_A_HURRY
    with process_group(run_dir, program=("-c", program)) as group:
        group.wait_for_steps(3)
        time.sleep(1)
        for process in group.processes:  # both are heard, and none of them moves
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(60) for process in group.processes]
    assert codes == [ExitCode.RESUMABLE, ExitCode.RESUMABLE]
    told = last_event(run_dir)
    assert told["event"] == "stopped"
    assert "no step has ended since" in told["message"]
    assert RunReader(run_dir).liveness().state == "stopped"


def test_processes_that_do_not_come_together_are_said_so(tmp_path: Path) -> None:
    quick = RECIPE.parallel.model_copy(update={"timeout": 2})
    run_dir = new_run(RECIPE.model_copy(update={"parallel": quick}), tmp_path)
    with process_group(run_dir) as group:
        os.kill(group[1].pid, signal.SIGSTOP)
        assert group[0].wait(150) == ExitCode.RESUMABLE
    told = last_event(run_dir)
    assert told["event"] == "peer_lost"
    assert told["rank"] is None
    assert "did not come together" in told["message"]
    assert "GLOO_SOCKET_IFNAME" in told["hint"]
