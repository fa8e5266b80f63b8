"""`loba runs` and `loba queue` on detached stand-in programs: real processes and real signals."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loba_command import (
    COMMAND_WITH_STAND_IN,
    DRIVER,
    Loba,
    kill_runs,
    slider_recipe,
    state,
    step,
    wait_until,
)

from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.queue import Queue
from loba_tui.core.run.queue_supervisor import shares_device
from loba_tui.core.run.reader import RunReader


class Queueing(Loba):
    """Starts runs of the stand-in, at once or by the queue."""

    def __init__(self, place: Path) -> None:
        super().__init__(place, COMMAND_WITH_STAND_IN)
        text = slider_recipe("done", model="{id: builtin:shapes-xl, device: cpu}")
        (place / "recipe.yaml").write_text(text)

    def start(self, name: str, *more: str) -> RunDir:
        told = self.says("run", "recipe.yaml", f"--set=name={name}", "--detach", *more)
        run_dir = RunDir(Path(told.strip()))
        wait_until(lambda: bool(RunReader(run_dir).new_metrics()))
        return run_dir

    def enqueue(self, name: str) -> RunDir:
        told = self.says("run", "recipe.yaml", f"--set=name={name}", "--queue")
        return RunDir(Path(told.strip()))

    @property
    def queue(self) -> Queue:
        return Queue.of_user(self.environ)


@pytest.fixture
def loba(tmp_path: Path) -> Iterator[Queueing]:
    loba = Queueing(tmp_path)
    yield loba
    for entry in loba.queue.entries():
        loba.queue.remove(entry)
    kill_runs(loba.environ)


def test_a_run_is_paused_and_goes_on(loba: Queueing) -> None:
    run_dir = loba.start("long")
    assert loba.says("runs", "pause", "last").startswith("paused at step")
    at = step(run_dir)
    assert "paused" in loba.says("runs", "ls")
    assert json.loads(loba.says("runs", "show", "last", "--json"))["state"] == "paused"
    assert step(run_dir) == at
    assert loba.says("runs", "resume", run_dir.name).startswith("goes on at step")
    wait_until(lambda: step(run_dir) > at)


def test_commands_are_answered_by_the_program(loba: Queueing) -> None:
    run_dir = loba.start("long")
    assert loba.says("runs", "save", run_dir.name[:8]).startswith("saved at step")
    assert loba.says("runs", "sample", str(run_dir.path)).startswith("sampled at step")
    told = loba.says("runs", "set", "last", "optimizer.lr=1e-4", "train.steps=2000")
    assert "optimizer.lr  1.0 → 0.0001  at step" in told
    assert "train.steps  1.0 → 2000" in told
    refused = loba("runs", "set", "last", "optimizer.lr=0.5")
    assert (refused.returncode, "too fast" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.lr=-1", "optimizer.lr: expected"),
        ("optimizer.lr=x", "optimizer.lr: expected"),
        ("optimizer.l=1", "Did you mean optimizer.lr?"),
        ("train.batch_size=2", "cannot be changed while a run goes on"),
        ("train.steps", "key.path=value"),
    ],
)
def test_a_wrong_setting_is_refused_before_it_is_sent(
    loba: Queueing, assignment: str, message: str
) -> None:
    run_dir = loba.start("long")
    refused = loba("runs", "set", "last", "save.every=2", assignment)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not [event for event in RunReader(run_dir).new_events() if event.kind == "command"]


def test_stop_ends_a_run_and_resume_starts_it_again(loba: Queueing) -> None:
    run_dir = loba.start("long")
    assert loba.says("runs", "stop", "last").startswith("stopped at step")
    assert state(run_dir) == "stopped"
    assert loba("runs", "stop", "last").returncode == 2
    assert loba("runs", "pause", "last").returncode == 2
    assert "started again" in loba.says("runs", "resume", "last")
    wait_until(lambda: state(run_dir) == "running")
    assert "argv ['--resume']" in run_dir.log.path.read_text()
    assert loba("runs", "resume", "last").returncode == 2


def test_a_killed_run_is_dead_at_once_and_can_be_resumed(loba: Queueing) -> None:
    run_dir = loba.start("long")
    status = RunReader(run_dir).status()
    assert status is not None
    assert status.owner is not None
    os.kill(status.owner.pid, signal.SIGKILL)
    wait_until(lambda: state(run_dir) == "dead", 5)
    assert "dead" in loba.says("runs", "ls")
    failed = loba("runs", "save", "last")
    assert f"loba runs resume {run_dir.name}" in failed.stderr
    loba.says("runs", "resume", "last")
    wait_until(lambda: state(run_dir) == "running")


def test_logs_follow_a_run_to_its_end(loba: Queueing) -> None:
    run_dir = loba.start("long")
    argv = [sys.executable, "-c", DRIVER, "runs", "logs", "-f", "last"]
    with subprocess.Popen(
        argv, env=loba.environ, stdout=subprocess.PIPE, text=True, cwd=loba.place
    ) as viewer:
        loba.says("runs", "save", "last")
        loba.says("runs", "stop", "last")
        told, _ = viewer.communicate(timeout=30)
    assert viewer.returncode == 0
    assert [line.split()[1] for line in told.splitlines()][:3] == ["started", "command", "command"]
    events = json.loads(loba.says("runs", "logs", "last", "--json"))
    assert events[0]["event"] == "started"
    assert "argv" in loba.says("runs", "logs", run_dir.name)


def test_hostile_text_in_events_is_shown_without_its_escapes(loba: Queueing) -> None:
    run_dir = loba.start("done")
    wait_until(lambda: state(run_dir) == "finished")
    told = loba.says("runs", "logs", "last")
    assert "red" in told
    assert not set("\x1b\x07\u202e") & set(told)


def test_a_run_is_removed_only_when_it_is_over_and_that_is_wanted(loba: Queueing) -> None:
    run_dir = loba.start("long")
    assert loba("runs", "rm", "last", "--yes").returncode == 6
    loba.says("runs", "stop", "last")
    asked = loba("runs", "rm", "last")
    assert asked.returncode == 8
    assert "MiB" in asked.stderr
    assert run_dir.path.is_dir()
    (loba.place / "precious").write_text("kept")
    (run_dir.path / "link").symlink_to(loba.place)
    refused = loba("runs", "rm", "last", "--yes")
    assert refused.returncode == 8
    assert "link is a link" in refused.stderr
    (run_dir.path / "link").unlink()
    assert "are free again" in loba.says("runs", "rm", "last", "--yes")
    assert not run_dir.path.exists()
    assert (loba.place / "precious").read_text() == "kept"
    assert loba.says("runs", "ls") == ""


def test_a_name_that_fits_several_runs_is_not_guessed(loba: Queueing) -> None:
    for _ in range(2):
        loba.says("run", "recipe.yaml", "--detach")
    failed = loba("runs", "show", "done")
    assert failed.returncode == 2
    assert "start of several runs" in failed.stderr


@pytest.mark.parametrize("when", ["soon", "2020-01-01"])
def test_a_deadline_that_cannot_be_met_is_refused_at_once(loba: Queueing, when: str) -> None:
    failed = loba("run", "recipe.yaml", "--deadline", when)
    assert failed.returncode == 2
    assert not (loba.place / "output").exists()


def test_a_deadline_is_handed_to_the_program(loba: Queueing) -> None:
    run_dir = loba.start("long", "--deadline", "2h")
    assert "argv ['--deadline', '2h']" in run_dir.log.path.read_text()


@pytest.mark.parametrize("attached", [False, True])
def test_closing_the_terminal_leaves_the_run_alone(loba: Queueing, attached: bool) -> None:
    pid, master = pty.fork()
    if pid == 0:
        # What started the tests may ignore hang-ups, as nohup does, and a child inherits that.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.chdir(loba.place)
        words = ["run", "recipe.yaml", "--set=name=long"] + ([] if attached else ["--detach"])
        os.execve(sys.executable, [sys.executable, "-c", DRIVER, *words], loba.environ)
    output = loba.place / "output"
    wait_until(lambda: output.is_dir() and any(output.iterdir()))
    run_dir = RunDir(next(output.iterdir()))
    wait_until(lambda: bool(RunReader(run_dir).new_metrics()))
    os.close(master)  # the terminal hangs up
    os.waitpid(pid, 0)
    at = step(run_dir)
    wait_until(lambda: step(run_dir) > at + 5)
    assert state(run_dir) == "running"


def test_queued_runs_start_one_after_the_other(loba: Queueing) -> None:
    busy = loba.start("long")  # outside the queue, on the same device
    first, second = loba.enqueue("done"), loba.enqueue("done")
    assert [state(first), state(second)] == ["queued", "queued"]
    listed = json.loads(loba.says("queue", "ls", "--json"))
    assert [record["path"] for record in listed] == [str(first.path), str(second.path)]
    time.sleep(1.5)
    assert state(first) == "queued"
    loba.says("runs", "stop", busy.name)
    wait_until(lambda: state(second) == "finished")
    ends = [RunReader(run).new_events()[-1].time for run in (first, second)]
    begin = RunReader(second).new_events()[0].time
    assert ends[0] <= begin
    wait_until(lambda: not loba.queue.is_supervised())
    assert loba.says("queue", "ls") == ""


def test_a_run_can_be_taken_out_of_the_queue(loba: Queueing) -> None:
    loba.start("long")
    waiting, other = loba.enqueue("done"), loba.enqueue("done")
    assert loba("runs", "rm", waiting.name, "--yes").returncode == 6
    loba.says("queue", "rm", waiting.name)
    loba.says("runs", "stop", other.name)
    assert [state(waiting), state(other)] == ["stopped", "stopped"]
    assert loba.queue.entries() == []
    assert loba("queue", "rm", waiting.name).returncode == 2


def test_after_a_restart_the_queue_is_shown_and_goes_on_where_it_was(loba: Queueing) -> None:
    begun, waiting = loba.enqueue("long"), loba.enqueue("done")
    wait_until(lambda: state(begun) == "running")
    # What a restart does: the supervisor and the run are gone without a word.
    supervisor = json.loads(
        subprocess.run(
            [sys.executable, "-c", "import json, psutil; print(json.dumps([p.pid for p in "
             "psutil.process_iter(['cmdline']) if 'loba_tui.core.run.queue_supervisor' in "
             f"(p.info['cmdline'] or []) and {str(loba.queue.folder)!r} in p.info['cmdline']]))"],
            capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip
    status = RunReader(begun).status()
    assert status is not None
    assert status.owner is not None
    for pid in (*supervisor, status.owner.pid):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not loba.queue.is_supervised() and state(begun) == "dead")
    told = loba("queue", "ls")
    assert "interrupted, resumable" in told.stdout
    assert "queued" in told.stdout
    assert "loba queue start" in told.stderr
    begun.recipe.path.write_text(begun.recipe.path.read_text().replace("name: long", "name: done"))
    loba.says("queue", "start")
    wait_until(lambda: state(waiting) == "finished")
    assert state(begun) == "finished"
    assert "argv ['--resume']" in begun.log.path.read_text()
    assert "argv []" in waiting.log.path.read_text()


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("cpu", "cuda:0", False),
        ("cuda", "cuda:0", True),
        ("cuda:0", "cuda:1", False),
        ("auto", "cuda:1", True),
        ("cuda:122", "cuda:0", True),
        ("cpu", "cpu", True),
    ],
)
def test_runs_on_different_devices_do_not_wait_for_each_other(
    one: str, other: str, shared: bool
) -> None:
    assert shares_device(one, other) == shares_device(other, one) == shared
