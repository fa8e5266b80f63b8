"""`loba run` and its kin, with a stand-in for the program so that every ending is a fast one."""

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loba_command import COMMAND_WITH_STAND_IN, Loba, slider_recipe, step, wait_until
from stand_in_program import ADAPTER

from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(slider_recipe("done"))
    return tmp_path


class Viewer(Loba):
    """Runs the command and watches the only run below `output`."""

    def start(self, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND_WITH_STAND_IN, "run", "recipe.yaml", "--set", f"name={name}"],
            cwd=self.place,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_dir(self) -> RunDir:
        (path,) = (self.place / "output").iterdir()
        return RunDir(path)

    def wait_for_step(self, number: int) -> RunDir:
        output = self.place / "output"
        wait_until(lambda: output.is_dir() and any(output.iterdir()), 30)
        run_dir = self.run_dir()
        wait_until(lambda: step(run_dir) >= number, 30)
        return run_dir


@pytest.fixture
def loba(place: Path) -> Viewer:
    return Viewer(place, COMMAND_WITH_STAND_IN, timeout=60, TERM="xterm")


def test_a_run_shows_plain_progress_and_ends_with_its_results(loba: Viewer) -> None:
    done = loba("run", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    run_dir = loba.run_dir()
    assert done.stdout == f"adapter    output/{run_dir.name}/adapter/adapter.safetensors\n"
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    assert re.search(
        r"training  \d+/20  loss [\d.]+  100\.0 steps/s  ETA 0:00  1,234 MiB", done.stderr
    )
    assert done.stderr.splitlines()[-1].startswith("finished  20/20")
    assert len(done.stderr.splitlines()) < 20
    assert "name: done" in run_dir.recipe.path.read_text()


def test_hostile_text_of_the_program_is_shown_without_its_escapes(loba: Viewer) -> None:
    done = loba("run", "recipe.yaml")
    assert "warning: slow red" in done.stderr
    failed = loba("run", "recipe.yaml", "--set", "name=out-of-memory")
    silent = loba("run", "recipe.yaml", "--set", "name=silent")
    for text in (done.stderr, failed.stderr, silent.stderr):
        assert not set("\x1b\x07\u202e") & set(text)


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("out-of-memory", 4, "Out of memory"),
        ("bug", 1, "log.txt"),
        ("killed", 4, "out of memory"),
        ("silent", 1, "RuntimeError: nobody caught me"),
    ],
)
def test_a_failing_program_is_explained_and_its_exit_code_handed_on(
    loba: Viewer, name: str, code: int, message: str
) -> None:
    failed = loba("run", "recipe.yaml", "--set", f"name={name}")
    assert failed.returncode == code
    assert message in failed.stderr
    assert failed.stdout == ""
    assert 'File "' not in failed.stderr or name == "silent"


def test_a_run_begins_with_another_by_its_name(loba: Viewer) -> None:
    assert loba("run", "recipe.yaml").returncode == 0
    first = loba.run_dir()
    done = loba(
        "run", "recipe.yaml", "--out-dir", "second", "--set", f"adapter.init_from={first.name[:8]}"
    )
    assert done.returncode == 0, done.stderr
    (second,) = (loba.place / "second").iterdir()
    assert f"init_from: {first.adapter.path}\n" in (second / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("nothing", "adapter.init_from: there is no {place}/nothing. There is no run called"),
        ("killed-", "holds no finished adapter"),
    ],
)
def test_a_name_of_no_run_with_an_adapter_is_said(loba: Viewer, given: str, told: str) -> None:
    loba("run", "recipe.yaml", "--set", "name=killed")
    done = loba("run", "recipe.yaml", "--set", f"adapter.init_from={given}")
    assert done.returncode in (2, 7)
    assert told.format(place=loba.place) in done.stderr
    assert len(list((loba.place / "output").iterdir())) == 1


def test_the_hint_comes_with_the_message(loba: Viewer) -> None:
    assert (
        "Lower train.batch_size."
        in loba("run", "recipe.yaml", "--set", "name=out-of-memory").stderr
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_one_signal_saves_and_ends_resumable(loba: Viewer, number: signal.Signals) -> None:
    viewer = loba.start("long")
    loba.wait_for_step(3)
    viewer.send_signal(number)
    _, messages = viewer.communicate(timeout=30)
    assert viewer.returncode == 75
    assert f"loba run --resume {loba.run_dir().path}" in messages
    assert ("Interrupted: finishing" in messages) == (number == signal.SIGINT)
    assert RunReader(loba.run_dir()).liveness().state == "stopped"


def test_a_second_interrupt_kills_at_once(loba: Viewer) -> None:
    viewer = loba.start("deaf")
    run_dir = loba.wait_for_step(3)
    viewer.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert viewer.poll() is None
    viewer.send_signal(signal.SIGINT)
    _, messages = viewer.communicate(timeout=30)
    assert viewer.returncode == 130
    assert "Killed." in messages
    assert RunReader(run_dir).liveness().state == "dead"


def test_a_hang_up_ends_the_viewer_and_not_the_run(loba: Viewer) -> None:
    viewer = loba.start("long")
    run_dir = loba.wait_for_step(3)
    viewer.send_signal(signal.SIGHUP)
    viewer.communicate(timeout=30)
    assert viewer.returncode == -signal.SIGHUP
    reader = RunReader(run_dir)
    before = reader.new_metrics()[-1].step
    time.sleep(0.3)
    assert reader.new_metrics()[-1].step > before
    status = reader.status()
    assert status is not None
    assert status.owner is not None
    os.kill(status.owner.pid, signal.SIGTERM)


def _read_terminal(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            piece = os.read(descriptor, 4096)
        except OSError:  # Linux says EIO where others say end of file
            return
        if not piece:
            return
        yield piece


@pytest.mark.parametrize(("terminal", "rewrites"), [("xterm", True), ("dumb", False)])
def test_only_a_capable_terminal_gets_a_rewriting_line(
    loba: Viewer, terminal: str, rewrites: bool
) -> None:
    master, slave = pty.openpty()
    viewer = subprocess.Popen(
        [*COMMAND_WITH_STAND_IN, "run", "recipe.yaml"],
        cwd=loba.place,
        env={**loba.environ, "TERM": terminal, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=slave,
    )
    os.close(slave)
    shown = b"".join(_read_terminal(master)).decode()
    assert viewer.wait(30) == 0
    os.close(master)
    assert ("\x1b[2K" in shown) == rewrites
    assert "finished  20/20" in shown
    # The progress line has no colour, and the program's own escapes never arrive.
    assert not re.search(r"\x1b\[[0-9;]+m|\x1b\]", shown)
    assert ("\x1b" in shown) == rewrites


def test_an_interrupted_run_goes_on_with_resume(loba: Viewer) -> None:
    viewer = loba.start("long")
    run_dir = loba.wait_for_step(3)
    viewer.send_signal(signal.SIGINT)
    viewer.communicate(timeout=30)
    run_dir.recipe.path.write_text(slider_recipe("done"))
    done = loba("run", "--resume", str(run_dir.path))
    assert done.returncode == 0, done.stderr
    assert "argv ['--resume']" in run_dir.log.path.read_text()
    assert loba("run", "--resume", run_dir.name).returncode == 0


def test_detached_runs_outlive_the_command(loba: Viewer) -> None:
    done = loba("run", "recipe.yaml", "--detach", "--set", "name=long")
    assert done.returncode == 0, done.stderr
    run_dir = loba.wait_for_step(1)
    assert done.stdout == f"{run_dir.path}\n"
    second = loba("run", "--resume", str(run_dir.path))
    assert second.returncode == 6
    assert "is in use by process" in second.stderr
    (record,) = json.loads(loba("runs", "ls", "--json").stdout)
    assert record["state"] == "running"
    assert "running" in loba("runs", "show", run_dir.name).stdout
    status = RunReader(run_dir).status()
    assert status is not None
    assert status.owner is not None
    os.kill(status.owner.pid, signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run"], 2, "No recipe is given"),
        (["run", "recipes/slidr.yaml"], 2, "Did you mean slider?"),
        (["run", "recipe.yaml", "--set", "train.stps=3"], 2, "steps"),
        (["run", "recipe.yaml", "--out-dir", "recipe.yaml/below"], 4, "--out-dir"),
        (["run", "--resume", "nowhere"], 2, "no run called nowhere"),
        (["run", "--resume", "."], 2, "not a run folder"),
        (["run", "recipe.yaml", "--resume", "."], 2, "cannot be given"),
        (["run", "--set", "a=1", "--resume", "."], 2, "is not a run folder"),
        (["sample", "nowhere"], 2, "no such run folder"),
        (["sample", "model.ckpt"], 8, "refused"),
        (["eval", "."], 2, "not a run folder"),
        (["sample", "a.safetensors", "--scales", "1,x"], 2, "'x' is not a number"),
        (["sample", "a.safetensors", "--scales", "nan"], 2, "not a number from -20"),
        (["eval", "a.safetensors", "--scales", "0"], 2, "at least one other scale"),
        (["sample", "a.safetensors", "--seeds", "-1"], 2, "--seeds: '-1'"),
        (["sample", "a.safetensors", "--recipe", "slider", "--out", "recipe.yaml/x"], 4, "--out"),
        (["sample", "a.safetensors", "--recipe", "slidr"], 2, "Did you mean slider?"),
        (["eval", "a.safetensors", "--recipe", "wrong.yaml"], 2, "wrong.yaml:1:2: version"),
        (["plugins", "ls", "optimisers"], 2, "Did you mean optimizers?"),
        (["plugins", "show", "adamv"], 2, "Did you mean adamw?"),
        (["export", "nowhere"], 2, "no run called nowhere"),
    ],
)
def test_bad_input_is_one_screen_with_its_exit_code(
    loba: Viewer, arguments: list[str], code: int, message: str
) -> None:
    (loba.place / "a.safetensors").write_bytes(b"")
    (loba.place / "wrong.yaml").write_text("{'version': 3}")
    failed = loba(*arguments)
    assert failed.returncode == code, failed.stderr
    assert message in failed.stderr
    assert failed.stdout == ""
    assert "Traceback" not in failed.stderr
    assert len(failed.stderr.splitlines()) < 12
    assert not (loba.place / "output").exists()


def test_the_shipped_recipe_stands_in_for_a_missing_file_and_says_so(loba: Viewer) -> None:
    done = loba("run", "recipes/slider.yaml", "--set", "name=done")
    assert done.returncode == 0, done.stderr
    assert "recipes/slider.yaml is not here; taking the shipped" in done.stderr


def test_a_request_reaches_the_program_and_reports_in_its_own_folder(loba: Viewer) -> None:
    loba("run", "recipe.yaml")
    run_dir = loba.run_dir()
    arguments = ("--prompt", "a red circle", "--scales", "-2,0,2", "--seeds", "4,5")
    done = loba("sample", str(run_dir.path), *arguments, "--out", "drawn")
    assert done.returncode == 0, done.stderr
    request = json.loads((loba.place / "drawn" / "request.json").read_text())
    assert request["action"] == "sample"
    assert request["run"] == str(run_dir.path)
    assert request["adapter"] == str(run_dir.adapter)
    assert request["prompts"] == ["a red circle"]
    assert (request["scales"], request["seeds"]) == ([-2, 0, 2], [4, 5])
    done = loba("eval", str(run_dir.adapter))
    assert done.returncode == 0, done.stderr
    assert len(list((run_dir.path / "requests").iterdir())) == 1
    # The program gets the recipe itself, and asks no file for it.
    assert request["recipe"] == (run_dir.path / "recipe.yaml").read_text()
    done = loba("eval", str(run_dir.adapter), "--recipe", "recipe.yaml", "--out", "measured")
    assert done.returncode == 0, done.stderr
    request = json.loads((loba.place / "measured" / "request.json").read_text())
    assert "name: done" in request["recipe"]


def test_export_copies_and_never_overwrites_unasked(loba: Viewer) -> None:
    loba("run", "recipe.yaml")
    name = loba.run_dir().name
    done = loba("export", name)
    assert done.stdout == f"{name}.diffusers.safetensors\n", done.stderr
    assert (loba.place / done.stdout.strip()).read_bytes() == ADAPTER
    assert loba("export", name).returncode == 8
    assert loba("export", name, "--yes").returncode == 0
    # This one has no such form, as those of kinds that PEFT alone reads.
    assert loba("export", name, "--format", "kohya").returncode == 8


def test_plugins_are_listed_with_their_options(loba: Viewer) -> None:
    listed = json.loads(loba("plugins", "ls", "optimizers", "--json").stdout)
    assert "adamw" in [plugin["name"] for plugin in listed]
    shown = json.loads(loba("plugins", "show", "optimizers/adamw", "--json").stdout)
    assert "weight_decay" in [option["name"] for option in shown["options"]]
    assert "weight_decay" in loba("plugins", "show", "adamw").stdout


@pytest.mark.slow
def test_the_real_program_trains_and_proves_and_its_adapter_is_drawn(
    tmp_path: Path,
) -> None:
    ask = Loba(tmp_path, timeout=300, TERM="xterm")
    small = {
        "train.steps": "3",
        "sample.prompts": "[a red circle on a white background]",
        "proof.prompts": "[a blue square on a white background]",
        "sample.scales": "[-1, 0, 1]",
        "sample.steps": "3",
    }
    overrides = [f"--set={key}={value}" for key, value in small.items()]
    done = ask("run", "slider", *overrides)
    assert done.returncode == 0, done.stderr
    assert "running on cpu" in done.stderr or "running on cuda" in done.stderr
    (path,) = (tmp_path / "output").iterdir()
    run_dir = RunDir(path)
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line[:1].strip())
    assert {"adapter", "strip", "report", "picture", "measured"} <= set(shown)
    for label in ("adapter", "strip", "report", "picture"):
        assert (tmp_path / shown[label]).is_file()
    assert "Spearman's rho per sample" in done.stdout
    assert [metric.step for metric in RunReader(run_dir).new_metrics()] == [1, 2, 3]

    drawn = ask("sample", str(run_dir.adapter), "--scales", "-1,1", "--out", "drawn")
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.startswith("strip      drawn/")
