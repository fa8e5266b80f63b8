"""Real runs through the command line that are steered, killed, starved of disk, and replayed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loba_command import Loba, kill_runs, state, step, wait_until

from loba_tui.client.runs import replay
from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.run import control
from loba_tui.core.run.changes import ChangeRecord
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import RunReader

pytestmark = pytest.mark.slow

RECIPE = """\
version: 1
name: {name}
base_model: {{id: builtin:shapes-xl, device: cpu}}
adapter: {{layers: [cross_attention]}}
method:
  name: text_slider
  rollout_steps: 4
  concepts:
    - {{target: a circle, positive: a large circle, negative: a small circle, preserve: [red]}}
train: {{steps: {steps}, batch_size: 2}}
sample: {{steps: 2, scales: [-1, 1], prompts: [a circle]}}
save: {{every: 5}}
proof: {{enabled: false}}
"""


class Training(Loba):
    """Runs the real program on the CPU."""

    def __init__(self, place: Path) -> None:
        super().__init__(place, timeout=300, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")

    def recipe(self, steps: int, name: str = "run") -> str:
        (self.place / "recipe.yaml").write_text(RECIPE.format(steps=steps, name=name))
        return "recipe.yaml"


@pytest.fixture
def loba(tmp_path: Path) -> Iterator[Training]:
    loba = Training(tmp_path)
    yield loba
    kill_runs(loba.environ)


def kinds(run_dir: RunDir) -> list[str]:
    return [event.kind for event in RunReader(run_dir).new_events()]


def test_a_steered_killed_and_resumed_run_is_replayed_to_the_same_file(loba: Training) -> None:
    told = loba.says("run", loba.recipe(5000), "--detach")
    run_dir = RunDir(Path(told.strip()))
    wait_until(lambda: step(run_dir) >= 3)
    loba.says("runs", "pause", "last")
    assert "0.0002 → 0.0005" in loba.says("runs", "set", "last", "optimizer.lr=5e-4")
    loba.says(
        "runs", "set", "last", "method.preserve_weight=0.5", f"train.steps={step(run_dir) + 40}"
    )
    loba.says("runs", "sample", "last")
    loba.says("runs", "resume", "last")
    at = step(run_dir)
    wait_until(lambda: step(run_dir) >= at + 7)
    status = RunReader(run_dir).status()
    assert status is not None
    assert status.owner is not None
    os.kill(status.owner.pid, signal.SIGKILL)
    wait_until(lambda: state(run_dir) == "dead", 5)
    loba.says("runs", "resume", "last")
    wait_until(lambda: state(run_dir) == "finished")
    assert "resumed" in kinds(run_dir)

    done = loba("replay", run_dir.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("identical  sha256")
    assert "optimizer.lr  0.0002 → 0.0005" in done.stderr
    replayed = Ledger.of_user(loba.environ).runs()[-1]
    assert replay.compare(replay.Adapter.read(run_dir.adapter_kohya), replayed)[0]

    shown = json.loads(loba.says("runs", "show", run_dir.name, "--json"))["steering"]
    assert [change["key"] for change in shown] == [
        "optimizer.lr",
        "method.preserve_weight",
        "train.steps",
    ]
    # Another run's file is not called the same.
    original = replay.Adapter.read(run_dir.adapter)
    plain = loba.says("run", loba.recipe(2), "--detach").strip()
    wait_until(lambda: state(RunDir(Path(plain))) == "finished")
    is_identical, lines = replay.compare(original, RunDir(Path(plain)))
    assert not is_identical
    assert "weights    different" in lines
    assert any("loba.recipe" in line and "loba.steering" in line for line in lines)


def test_what_does_not_say_how_it_was_made_cannot_be_replayed(
    loba: Training, tmp_path: Path
) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(RecipeError, match="does not say how it was made"):
        replay.require_recipe(replay.Adapter.read(tmp_path / "a.safetensors"))
    (tmp_path / "b.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(CorruptError):
        replay.Adapter.read(tmp_path / "b.safetensors")
    assert loba("replay", "c.safetensors").returncode == 2


def test_a_deadline_is_kept(loba: Training) -> None:
    begin = time.monotonic()
    done = loba("run", loba.recipe(100_000), "--deadline", "40s")
    assert done.returncode == 75, done.stderr
    assert time.monotonic() - begin < 40
    (run_dir,) = Ledger.of_user(loba.environ).runs()
    assert step(run_dir) > 0
    saved = [event for event in RunReader(run_dir).new_events() if event.kind == "saved"]
    assert saved[-1].data["step"] == step(run_dir)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("this needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def heartbeat(run_dir: RunDir) -> float:
    status = RunReader(run_dir).status()
    return status.heartbeat if status is not None else 0.0


def test_a_run_on_a_full_disk_waits_and_goes_on_by_itself(loba: Training, small_disk: Path) -> None:
    told = loba.says("run", loba.recipe(60), "--detach", "--out-dir", str(small_disk))
    run_dir = RunDir(Path(told.strip()))
    wait_until(lambda: "saved" in kinds(run_dir))
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while stream.write(b"\0" * 2**16):
            pass
    wait_until(lambda: "waits for the disk" in RunReader(run_dir).liveness().reason)
    assert state(run_dir) == "paused"
    assert list(run_dir.checkpoints.path.glob("step-*/manifest.json"))
    at = RunReader(run_dir).status()
    assert at is not None
    wait_until(lambda: heartbeat(run_dir) > at.heartbeat)
    assert step(run_dir) == at.step
    ballast.unlink()
    wait_until(lambda: state(run_dir) == "finished")
    metrics = [metric.step for metric in RunReader(run_dir).new_metrics()]
    assert metrics == list(range(1, 61))
    assert RunReader(run_dir).num_foreign_lines == 0
    assert {"paused_disk", "continued"} <= set(kinds(run_dir))


def test_a_run_of_two_processes_is_steered_as_one(loba: Training) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launcher += ["--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    program = ["-m", "loba_tui.core.program.main", "--recipe", loba.recipe(400), "--out_dir", "two"]
    with subprocess.Popen(
        [*launcher, *program], cwd=loba.place, env=loba.environ, stderr=subprocess.DEVNULL
    ) as process:
        wait_until(lambda: bool(Ledger.of_user(loba.environ).runs()))
        (run_dir,) = Ledger.of_user(loba.environ).runs()
        wait_until(lambda: step(run_dir) >= 2)
        control.send(run_dir, control.Command("pause"))
        wait_until(lambda: state(run_dir) == "paused")
        at = step(run_dir)
        time.sleep(1)
        assert step(run_dir) == at
        for key, value in (("optimizer.lr", 5e-4), ("train.steps", at + 10)):
            control.send(run_dir, control.Command("set", {"key": key, "value": value}))
        control.send(run_dir, control.Command("resume"))
        assert process.wait(120) == 0
    metrics = RunReader(run_dir).new_metrics()
    assert [metric.lr for metric in metrics] == [2e-4] * at + [5e-4] * 10
    record = ChangeRecord.read(run_dir.changes)
    assert record is not None
    assert {change.step for change in record.changes} == {at}
    assert run_dir.adapter.is_there()
    shutil.rmtree(run_dir.path)
