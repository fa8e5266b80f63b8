"""`loba sweep`: what varies, where it runs, and runs that are killed on the way."""

import csv
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_recipes import PROGRAM, tiny_recipe
from loba_command import Loba, kill_run, kill_runs, slider_recipe, state, step, wait_until
from PIL import Image
from typer.testing import CliRunner

from loba_tui import cli
from loba_tui.client.sweeps.folder import Sweep
from loba_tui.core.run.queue import Queue
from loba_tui.core.run.reader import RunReader

DRIVER = f"""
import functools, signal
from loba_tui import cli
from loba_tui.client.runs import foreground
from loba_tui.core.run import queue_supervisor
signal.signal(signal.SIGINT, signal.default_int_handler)
foreground.Foreground = functools.partial(foreground.Foreground, program={PROGRAM!r})
cli.main()
"""


class Sweeping(Loba):
    """Sweeps a recipe whose runs train nothing."""

    def __init__(self, place: Path) -> None:
        super().__init__(place, (sys.executable, "-c", DRIVER), OMP_NUM_THREADS="1")
        text = slider_recipe("fleet", model="{id: builtin:shapes-xl, device: cpu}")
        (place / "recipe.yaml").write_text(text + "train: {steps: 5}\n")

    @property
    def queue(self) -> Queue:
        return Queue.of_user(self.environ)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, "sweep", *arguments],
            cwd=self.place,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def sweep(self) -> Sweep:
        (path,) = (self.place / "output").iterdir()
        return Sweep.open(path)


@pytest.fixture
def loba(tmp_path: Path) -> Iterator[Sweeping]:
    loba = Sweeping(tmp_path)
    yield loba
    for entry in loba.queue.entries():
        loba.queue.remove(entry)
    kill_runs(loba.environ)
    wait_until(lambda: not loba.queue.is_supervised(), 30)


def test_nothing_starts_where_anything_is_wrong(
    loba: Sweeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {
        ("--vary=optimizer.lrr=1,2", "--vary=adapter.rank=2,x", "--slots=cpu"): (
            2, ["--vary optimizer.lrr=1: ", "Did you mean lr?", "--vary adapter.rank=x: "],
        ),
        ("--vary=adapter.rank=2,2", "--slots=cpu"): (2, ["the value 2 is there twice"]),
        ("--vary=adapter.rank", "--slots=cpu"): (2, ["expected KEY=VALUE,VALUE"]),
        ("--vary=train.seed=0,1", "--vary=train.seed=2", "--slots=cpu"): (2, ["varies twice"]),
        ("--vary=train.seed=0,1", "--vary=adapter.rank=1,2,3", "--zip", "--slots=cpu"): (
            2, ["train.seed has 2, adapter.rank has 3"],
        ),
        ("--vary=train.seed=" + ",".join(map(str, range(65))), "--slots=cpu"): (
            8, ["this is 65 runs", "Add --yes"],
        ),
        ("--vary=train.seed=0,1",): (2, ["--slots 0,1"]),
        ("--vary=train.seed=0,1", "--slots=host:0"): (2, ["on another machine"]),
        ("--vary=train.seed=0,1", "--slots=tpu"): (2, ["is not a slot"]),
        ("--vary=train.seed=0,1", "--slots=99"): (2, ["there is no CUDA device 99"]),
        ("--vary=train.seed=0,1", "--slots=cpu", "--name=../x"): (2, ["a sweep's name"]),
    }  # fmt: skip
    monkeypatch.chdir(loba.place)
    monkeypatch.setenv("XDG_STATE_HOME", loba.environ["XDG_STATE_HOME"])
    for arguments, (code, messages) in cases.items():
        done = CliRunner().invoke(cli.app, ["sweep", "recipe.yaml", *arguments])
        assert done.exit_code == code, (arguments, done.stderr)
        for message in messages:
            assert message in done.stderr, (arguments, done.stderr)
    done = CliRunner().invoke(
        cli.app,
        [
            *("sweep", "recipe.yaml", "--vary", "train.seed=0,1", "--dry-run", "--json"),
            *("--vary", "adapter.layers=[cross_attention],[self_attention, cross_attention]"),
            *("--slots", "cpu,cpu"),
        ],
    )
    planned = json.loads(done.stdout)
    assert planned["slots"] == ["cpu", "cpu"]
    assert [run["train.seed"] for run in planned["runs"]] == ["0", "0", "1", "1"]
    assert planned["runs"][1]["adapter.layers"] == "[self_attention, cross_attention]"
    assert not (loba.place / "output").exists()


@pytest.mark.slow
def test_real_runs_are_shown_with_their_proofs_and_pictures(tmp_path: Path) -> None:
    loba = Loba(tmp_path, OMP_NUM_THREADS="1")
    (tmp_path / "real.yaml").write_text(
        tiny_recipe(scales="[-1, 0, 1]", proof="{prompts: [a red circle], seeds: [0]}")
    )
    argv = ("sweep", "real.yaml", "--vary=optimizer.lr=1e-4,2e-2", "--slots=cpu,cpu")
    process = subprocess.Popen(
        [*loba.command, *argv, "--json"],
        cwd=tmp_path,
        env=loba.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: any((tmp_path / "output").glob("*/sweep.json")), 30)
        (folder,) = (tmp_path / "output").iterdir()
        run = Sweep.open(folder).runs[0].run
        wait_until(lambda: state(run) == "running" and step(run) >= 2)
        kill_run(run)
        told, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
        kill_runs(loba.environ)
    assert process.returncode == 0
    runs = json.loads(told)["runs"]
    assert [run["state"] for run in runs] == ["finished"] * 2
    # The higher rate moves the prediction more; the verdict of both is the proof's own.
    assert [run["number"] for run in runs] == [2, 1]
    assert all(run["outcome"] for run in runs)
    assert runs[0]["figures"]["strength"] > runs[1]["figures"]["strength"]
    assert "resumed" in [event.kind for event in RunReader(run).new_events()]
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 96
        assert sheet.height > 2 * 32


def test_twenty_runs_of_which_three_are_killed_are_all_finished(loba: Sweeping) -> None:
    rates = ",".join(f"{number}e-3" for number in range(1, 21))
    process = loba.start(
        "recipe.yaml", "--vary", f"optimizer.lr={rates}", "--slots", "cpu,cpu", "--json"
    )
    try:
        chosen = random.Random(0).sample(range(20), 3)
        wait_until(lambda: any((loba.place / "output").glob("*/sweep.json")), 30)
        sweep = loba.sweep()
        for number in sorted(chosen):
            run = sweep.runs[number].run
            wait_until(lambda run=run: state(run) == "running" and step(run) >= 1, 50)
            kill_run(run)
        told, messages = process.communicate(timeout=55)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, messages
    runs = json.loads(told)["runs"]
    assert [run["state"] for run in runs] == ["finished"] * 20
    # There is no proof: the last loss, which is the rate here, decides.
    assert [run["number"] for run in runs] == list(range(1, 21))
    begins = [
        [e.data["step"] for e in RunReader(each.run).new_events() if e.kind == "started"]
        for each in sweep.runs
    ]
    assert [len(each) for each in begins] == [2 if n in chosen else 1 for n in range(20)]
    assert all(begins[number][1] >= 1 for number in chosen)
    _require_two_at_once(sweep)
    with (sweep.path / "table.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["optimizer.lr"] for row in rows] == [f"{number}e-3" for number in range(1, 21)]
    assert {row["state"] for row in rows} == {"finished"}
    kept = json.loads((sweep.path / "sweep.json").read_text())
    assert len(kept["results"]) == 20
    assert "20/20 done" in loba.says("sweeps", "ls")
    assert "best: run 1 (optimizer.lr=1e-3)" in loba.says("sweeps", "ls")


def _require_two_at_once(sweep: Sweep) -> None:
    """Require that two runs went on at once, and never three."""
    changes: list[tuple[float, int]] = []
    for each in sweep.runs:
        events = RunReader(each.run).new_events()
        if len([event for event in events if event.kind == "started"]) == 1:
            changes += [(events[0].time, 1), (events[-1].time, -1)]
    going, most = 0, 0
    for _, change in sorted(changes):
        going += change
        most = max(most, going)
    assert most == 2


def test_a_sweep_outlives_its_table_is_stopped_and_goes_on(loba: Sweeping) -> None:
    process = loba.start(
        *("recipe.yaml", "--vary=optimizer.lr=1e-3,2e-3,0.5", "--slots=cpu"),
        "--set=train.steps=1500",
    )
    wait_until(lambda: any((loba.place / "output").glob("*/sweep.json")), 30)
    sweep = loba.sweep()
    first, second, third = (each.run for each in sweep.runs)
    wait_until(lambda: state(first) == "running" and step(first) > 3, 30)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 75
    assert f"loba sweeps stop {sweep.name}" in messages
    assert [state(first), state(second)] == ["running", "queued"]
    told = loba.says("sweeps", "stop", "last")
    assert "run 2 is taken out of the queue" in told
    assert [state(each.run) for each in sweep.runs] == ["stopped"] * 3
    for run in (first, second, third):
        text = run.recipe.path.read_text()
        run.recipe.path.write_text(text.replace("  steps: 1500", "  steps: 20"))
    done = loba("sweep", "--resume", sweep.name[:12], "--slots", "cpu,cpu")
    assert done.returncode == 75, done.stderr
    assert "1 of 3 runs are not finished" in done.stderr
    assert [state(each.run) for each in sweep.runs] == ["finished", "finished", "failed"]
    last = done.stdout.splitlines()[-1]
    assert last == "run 3 is failed: the rate is refused"
    assert loba("sweep", "recipe.yaml", "--resume", "last").returncode == 2
    assert "is not a sweep" not in done.stderr
    begins = [e.data["step"] for e in RunReader(first).new_events() if e.kind == "started"]
    assert begins[1] > 3


def test_a_sweep_is_found_by_its_name_and_a_damaged_one_is_said_to_be(loba: Sweeping) -> None:
    loba.says("sweep", "recipe.yaml", "--vary=train.seed=0,1", "--slots=cpu,cpu", "--name=seeds")
    assert "did you mean" not in loba("sweeps", "show", "nothing").stderr.lower()
    assert "run  train.seed" in loba.says("sweeps", "show", "seeds")
    record = loba.sweep().path / "sweep.json"
    text = record.read_text()
    for damage in ("{", text.replace('"folder": "fleet-1', '"folder": "../fleet-1')):
        record.write_text(damage)
        done = loba("sweeps", "show", "seeds")
        assert (done.returncode, "is not the record of a sweep" in done.stderr) == (7, True)
        assert "unreadable" in loba.says("sweeps", "ls")
