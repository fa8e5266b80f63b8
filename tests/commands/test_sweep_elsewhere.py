"""A sweep as a SLURM array, as jobs of SkyPilot, and as tasks of Ray."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import slurm
from fleet_recipes import PROGRAM, tiny_recipe
from loba_command import Loba, kill_run, slider_recipe, state, step, wait_until
from ruamel.yaml import YAML

from loba_tui.client.sweeps import printed
from loba_tui.client.sweeps.folder import Sweep
from loba_tui.client.sweeps.printed import FILE_NAMES
from loba_tui.core.run.reader import RunReader

DRIVER = f"""
import functools, signal
from loba_tui import cli
from loba_tui.client.runs import foreground
from loba_tui.client.sweeps import printed
signal.signal(signal.SIGINT, signal.default_int_handler)
foreground.Foreground = functools.partial(foreground.Foreground, program={PROGRAM!r})
printed.PROGRAM = {PROGRAM!r}
cli.main()
"""


def sweeping(place: Path, steps: int) -> Loba:
    text = slider_recipe("fleet", model="{id: builtin:shapes-xl, device: cpu}")
    (place / "recipe.yaml").write_text(f"{text}train: {{steps: {steps}}}\n")
    return Loba(place, (sys.executable, "-c", DRIVER))


def made(place: Path) -> Sweep:
    (path,) = (place / "output").iterdir()
    return Sweep.open(path)


def begins(sweep: Sweep) -> list[list[int]]:
    return [
        [e.data["step"] for e in RunReader(each.run).new_events() if e.kind == "started"]
        for each in sweep.runs
    ]


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm.why_not()), reason=slurm.why_not() or "SLURM is there")
def test_slurm_runs_the_printed_array_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(tiny_recipe())
    loba = Loba(tmp_path)
    told = loba.says("sweep", "recipe.yaml", "--vary=train.seed=0,1", "--print=slurm")
    sweep = made(tmp_path)
    file = sweep.path / FILE_NAMES["slurm"]
    assert file.read_text() == told
    assert "#SBATCH --array=1-2\n" in told
    assert "gpus" not in told  # the recipe's device is cpu
    folder = tmp_path / "slurm"
    folder.mkdir()
    with slurm.cluster(folder) as environ:
        subprocess.run(["sbatch", str(file)], env=environ, check=True, timeout=30)
        first = sweep.runs[0].run
        wait_until(lambda: state(first) == "running" and step(first) >= 2)
        kill_run(sweep.runs[0].run)
        wait_until(lambda: slurm.num_jobs(environ) == 0)
    assert [state(each.run) for each in sweep.runs] == ["finished"] * 2
    events = [RunReader(each.run).new_events() for each in sweep.runs]
    assert [sum(e.kind == "started" for e in each) for each in events] == [2, 1]
    assert [e.data["step"] for e in events[0] if e.kind == "resumed"][-1] >= 1
    assert "run  train.seed  state     step" in loba.says("sweeps", "show", "last")
    assert loba("sweep", "--resume", "last", "--print", "slurm").returncode == 2


def test_the_array_s_task_saves_at_its_end_of_time_and_asks_for_another(tmp_path: Path) -> None:
    loba = sweeping(tmp_path, steps=1000)
    loba.says("sweep", "recipe.yaml", "--vary=train.seed=0,1", "--print=slurm")
    sweep = made(tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    asked = tmp_path / "asked"
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {asked}\n')
    (tools / "scontrol").chmod(0o755)
    environ = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    environ |= {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_JOB_ID": "7"}
    run = sweep.runs[1].run
    argv = ["bash", str(sweep.path / FILE_NAMES["slurm"])]
    for number, is_asked in ((signal.SIGTERM, False), (signal.SIGUSR1, True)):
        task = subprocess.Popen(argv, env=environ)
        before = step(run)
        wait_until(lambda before=before: state(run) == "running" and step(run) > before, 30)
        task.send_signal(number)
        assert task.wait(30) == 75
        assert state(run) == "stopped"
        assert asked.exists() == is_asked
    assert asked.read_text() == "requeue 7_2\n"
    first, second = begins(sweep)[1]
    assert first == 0 < second


def test_the_printed_jobs_of_skypilot_train_below_the_bucket(tmp_path: Path) -> None:
    loba = sweeping(tmp_path, steps=5)
    told = loba.says("sweep", "recipe.yaml", "--vary=train.seed=0,1", "--print=skypilot")
    sweep = made(tmp_path)
    task = YAML(typ="safe").load(told)
    assert task["file_mounts"]["/sweep"]["source"] == str(sweep.path)
    assert task["resources"]["use_spot"] is True
    # The commands themselves, with a folder in place of the bucket.
    program = f"{PROGRAM[0]} {PROGRAM[1]}"
    text = task["run"].replace("/sweep/$name", str(sweep.path) + "/$name", 1)
    text = text.replace("python -P -m loba_tui.core.program.main", program)
    environ = {**os.environ, "LOBA_RUN": "2", "HOME": str(tmp_path / "home")}
    done = subprocess.run(["bash", "-c", text], env=environ, timeout=60)
    assert done.returncode == 0
    assert [state(each.run) for each in sweep.runs][1] == "finished"
    assert sweep.runs[1].run.adapter.is_there()


def test_numbers_are_written_as_ranges() -> None:
    assert printed._ranges([1, 2, 3, 7, 9, 10]) == "1-3,7,9-10"


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_nothing_is_made(tmp_path: Path) -> None:
    loba = sweeping(tmp_path, steps=5)
    argv = ("sweep", "recipe.yaml", "--vary=train.seed=0,1", "--slots=cpu", "--engine=ray")
    done = loba(*argv)
    assert done.returncode == 4
    assert "pip install 'loba-trainer[ray]'" in done.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_trains_as_many_runs_at_once_as_there_are_slots(tmp_path: Path) -> None:
    loba = sweeping(tmp_path, steps=200)
    argv = ("sweep", "recipe.yaml", "--vary=optimizer.lr=1e-3,2e-3,3e-3,0.5", "--slots=cpu,cpu")
    process = subprocess.Popen(
        [*loba.command, *argv, "--engine=ray", "--json"],
        cwd=tmp_path,
        env=loba.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: any((tmp_path / "output").glob("*/sweep.json")), 30)
        sweep = made(tmp_path)
        run = sweep.runs[0].run
        wait_until(lambda: state(run) == "running" and step(run) > 3, 60)
        kill_run(sweep.runs[0].run)
        told, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 75  # one fails by its own error
    runs = json.loads(told)["runs"]
    assert [run["state"] for run in runs] == ["finished"] * 3 + ["failed"]
    assert [len(each) for each in begins(sweep)] == [2, 1, 1, 1]
