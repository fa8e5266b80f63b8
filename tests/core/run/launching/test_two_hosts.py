"""Runs on two hosts, which are network namespaces: equal to one process, whatever is cut or killed.

One run is hurt three times, and has to end with the very bytes of one that nothing disturbs.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from program_runs import adapter_hashes, new_run, run_here, shape_slider
from two_hosts import SECOND_NAME, Followed, TwoHosts, found_run, two_hosts, why_not

from loba_tui.core.errors import ExitCode
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader

pytestmark = pytest.mark.slow

TIMEOUT = 6
"""Seconds after which a process that waits for another one gives up."""
TOLD = TIMEOUT + 15
STEPS = 60


def small(batch_size: int) -> Recipe:
    return shape_slider(
        4,
        name="two-hosts",
        base_model={"id": "builtin:shapes-xl", "device": "cpu", "threads": 1},
        train={"steps": STEPS, "batch_size": batch_size},
        save={"every": 5},
        sample={"prompts": ["a red circle"], "scales": [0, 1], "steps": 1},
        proof={"enabled": False},
        parallel={"timeout": TIMEOUT},
    )


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    if reason := why_not():
        pytest.skip(reason)
    place, runs = tmp_path_factory.mktemp("hosts"), tmp_path_factory.mktemp("runs")
    state = tmp_path_factory.mktemp("state")
    environ = {"XDG_STATE_HOME": str(state), "LOBA_CACHE": "off", "OMP_NUM_THREADS": "1"}
    with two_hosts(place, runs, environ) as both:
        (place / "recipe.yaml").write_text(dump_recipe(small(1)))
        yield both


def begin(hosts: TwoHosts, name: str, *options: str) -> Followed:
    """Start a run on both hosts."""
    parent = hosts.hidden / name
    process = hosts.loba(
        *("run", str(hosts.place / "recipe.yaml"), "--out-dir", str(parent)),
        *("--hosts", f"localhost,{SECOND_NAME}", *options),
        folder=hosts.place,
    )
    return Followed(found_run(parent), process)


def losses(run_dir: RunDir) -> dict[int, float]:
    """Return the loss of each step; one that was made again counts as it was made last."""
    records: list[dict[str, Any]] = list(
        map(json.loads, run_dir.metrics.path.read_text().splitlines())
    )
    return {each["step"]: each["loss"] for each in records}


@pytest.fixture(scope="module")
def undisturbed(hosts: TwoHosts) -> RunDir:
    run = begin(hosts, "undisturbed")
    run.wait_for("finished")
    said, _ = run.process.communicate(timeout=30)
    assert run.process.returncode == 0, said
    return run.run_dir


def test_two_hosts_train_what_one_process_does_with_twice_the_batch(
    undisturbed: RunDir, tmp_path: Path
) -> None:
    recipe = small(2)
    alone = losses(run_here(recipe, new_run(recipe, tmp_path)))
    together = losses(undisturbed)
    assert list(together) == list(range(1, STEPS + 1))
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_host_that_is_not_there_is_named_with_the_words_of_ssh(hosts: TwoHosts) -> None:
    run = begin(hosts, "nowhere", "--hosts", "localhost,nowhere.invalid")
    said, _ = run.process.communicate(timeout=30)
    assert run.process.returncode == ExitCode.RESOURCES
    assert "nowhere.invalid cannot be reached over ssh" in said
    assert "Could not resolve hostname" in said
    status = RunReader(run.run_dir).status()
    assert status is not None
    assert status.phase == "failed"


def test_a_resume_that_cannot_start_leaves_the_ending_as_it_was(
    hosts: TwoHosts, undisturbed: RunDir
) -> None:
    shape = ("--hosts", "localhost,nowhere.invalid", "--set", f"train.steps={STEPS + 1}")
    process = hosts.loba("run", "--resume", str(undisturbed.path), *shape, folder=hosts.place)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == ExitCode.RESOURCES, said
    status = RunReader(undisturbed).status()
    assert status is not None
    assert (status.phase, status.step) == ("finished", STEPS)


def test_a_host_with_other_versions_is_refused(hosts: TwoHosts) -> None:
    python = hosts.place / "other-python"
    python.write_text('#!/bin/sh\necho \'loba:{"loba-trainer": "0.0.1", "torch": "1.0"}\'\n')
    python.chmod(0o755)
    run = begin(hosts, "versions", "--remote-python", str(python))
    said, _ = run.process.communicate(timeout=30)
    assert run.process.returncode == ExitCode.RESOURCES
    assert "second has 0.0.1 of loba-trainer" in said


def test_a_host_killed_a_cable_cut_and_a_process_stopped_cost_no_bit(
    hosts: TwoHosts, undisturbed: RunDir
) -> None:
    run = begin(hosts, "hurt")
    run.wait_for_step(8)
    hosts.kill_second()
    run.wait_for("peer_lost", TOLD)
    hosts.mend()
    hosts.boot()
    assert run.wait_for("relaunched").data["restart"] == 1

    run.wait_for("resumed")
    run.wait_for_step(18)
    hosts.cut()
    run.wait_for("peer_lost", TOLD)
    hosts.mend()
    assert run.wait_for("relaunched").data["restart"] == 2

    run.wait_for("resumed")
    run.wait_for_step(28)
    os.kill(hosts.rank(1), signal.SIGSTOP)
    run.wait_for("peer_lost", TOLD)
    assert run.wait_for("relaunched").data["restart"] == 3

    run.wait_for("finished")
    said, _ = run.process.communicate(timeout=30)
    assert run.process.returncode == 0, said
    assert adapter_hashes(run.run_dir) == adapter_hashes(undisturbed)
    ports = [e.data["port"] for e in run.events if e.kind in ("launched", "relaunched")]
    assert len(set(ports)) == len(ports) == 4
    with pytest.raises(AssertionError, match="no rank"):
        hosts.rank(1)
