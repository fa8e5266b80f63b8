"""Attacks by a run folder from elsewhere; `benchmarks/attack_matrix.py` makes thousands of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attack_matrix import Result, attack, call, prepared
from hostile_runs import ENTRIES, MUTATIONS, Place, mutate, snapshot

from loba_tui.client.runs import steer
from loba_tui.core import file_safety
from loba_tui.core.run import owner
from loba_tui.core.run.directory import RunDir

LINKS = [kind for kind in MUTATIONS if "link" in kind]
CODE = """
import sys, time
from pathlib import Path
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import RunWriter
writer = RunWriter.open(RunDir(Path(sys.argv[1])))
writer.status(phase="training")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with prepared(tmp_path) as place:
        yield place


def run(*arguments: str) -> int:
    """Run a command in this process and return its exit code; a traceback fails the test."""
    result = Result()
    call(result, arguments[0], arguments)
    assert result.faults == []
    ((_, code),) = result.exits
    return code


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if not entry.startswith("control/")])
def test_a_link_in_a_run_is_refused_and_leads_nowhere(place: Place, entry: str, kind: str) -> None:
    run_dir = place.make("run")
    mutate(place, run_dir, entry, kind)
    before = snapshot(place.outside)
    path = str(run_dir.path)
    for command in (
        ["runs", "resume", path],
        ["runs", "stop", path],
        ["runs", "pause", path],
        ["runs", "rm", path, "--yes"],
        ["run", "--resume", path],
    ):
        assert run(*command) == 8, command
    assert snapshot(place.outside) == before
    assert run_dir.path.is_dir()


@pytest.mark.parametrize("kind", MUTATIONS)
def test_whatever_stands_in_a_record_s_place_nothing_outside_changes(
    place: Place, kind: str
) -> None:
    """One folder for each record, all with the same kind in its place."""
    result = Result()
    entries = ("status.json", "metrics.jsonl", "adapter/report.json", "log.txt")
    for number, entry in enumerate(entries):
        attack(place, result, [(entry, kind)], f"run{number}")
    assert result.faults == []


@pytest.mark.parametrize("name", ["log", "lock", "status", "events", "control", "checkpoints"])
def test_what_is_swapped_after_the_examination_is_refused_where_it_is_used(
    place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, examine = snapshot(place.outside), RunDir.require_safe

    def examined_then_swapped(run: RunDir) -> None:
        examine(run)
        entry = getattr(run, name).path
        mutate(place, run, entry.name, "link to a folder" if entry.is_dir() else "link to a file")

    monkeypatch.setattr(RunDir, "require_safe", examined_then_swapped)
    for command in ("resume", "stop", "rm"):
        path = str(place.make(command).path)
        run("runs", command, path, *(["--yes"] if command == "rm" else []))
        assert snapshot(place.outside) == before, command


def test_a_process_that_a_record_names_is_not_ended(place: Place) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            run_dir = place.make("run")
            named = {**vars(owner.this_process()), "pid": bystander.pid}
            named["process_start"] = owner.process_start(bystander.pid)
            status = {"version": 1, "phase": "training", "step": 1, "total": 2, "heartbeat": 2e9}
            run_dir.status.replace(json.dumps({**status, **named}).encode())
            run_dir.lock.replace(json.dumps({**named, "time": 1.0}).encode())
            assert run("runs", "stop", str(run_dir.path)) == 2
            assert owner.find_holder(run_dir.lock) is None
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_who_holds_the_lock_is_signalled_whoever_the_record_names(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steer, "_SIGNAL_AFTER_SECONDS", 0.1)
    run_dir = place.make("run")
    argv = [sys.executable, "-c", CODE, str(run_dir.path)]
    with (
        subprocess.Popen(["sleep", "60"]) as bystander,
        subprocess.Popen(argv, stdout=subprocess.PIPE) as program,
    ):
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == b"held\n"
            record = json.loads(run_dir.lock.path.read_bytes())
            # In place, as the lock is the file's, not the name's.
            run_dir.lock.path.write_text(json.dumps({**record, "pid": bystander.pid}))
            assert run("runs", "stop", str(run_dir.path)) == 0
            assert program.wait(10) == -signal.SIGTERM
            assert bystander.poll() is None
        finally:
            bystander.kill()
            program.kill()


@pytest.mark.parametrize(
    "files",
    [{}, {"recipe.yaml": "x"}, {"status.json": "{}"}, {"run.lock": "{}", ".loba-run": "other"}],
    ids=["nothing of ours", "a recipe", "a status of another program", "a marker of another"],
)
def test_only_what_says_that_it_is_a_run_is_deleted_whatever_the_ledger_lists(
    place: Place, files: dict[str, str]
) -> None:
    folder = place.outside / "thesis"
    folder.mkdir()
    for name, content in {**files, "chapter.tex": "years of work"}.items():
        (folder / name).write_text(content)
    before = snapshot(place.outside)
    place.ledger.register(RunDir(folder))
    for name in ("thesis", str(folder)):
        assert run("runs", "rm", name, "--yes") in (2, 8)
    assert run("runs", "rm", "last", "--yes") == 8
    assert snapshot(place.outside) == before


def test_a_run_of_before_there_was_a_marker_is_still_removed(place: Place) -> None:
    run_dir = place.make("run")
    run_dir.marker.remove()
    assert run("runs", "rm", str(run_dir.path), "--yes") == 0
    assert not run_dir.path.exists()


def test_a_ledger_entry_that_has_become_a_link_is_no_run(place: Place) -> None:
    run_dir = place.make("run")
    moved = place.runs / "moved"
    run_dir.path.rename(moved)
    run_dir.path.symlink_to(moved)
    assert place.ledger.runs() == []
    assert run("runs", "rm", str(run_dir.path), "--yes") == 2
    assert moved.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_user_s_file_is_refused_and_one_of_a_mapped_volume_is_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = place.make("run")
    os.chown(run_dir.log.path, 12345, 12345)
    assert run("runs", "resume", str(run_dir.path)) == 8
    # On such a volume whatever is made there is another user's too.
    monkeypatch.setattr(file_safety, "_uid_of_new_files", {run_dir.path.stat().st_dev: 12345})
    assert run_dir.log.is_there()


@pytest.mark.parametrize("character", ["\n", "\x1b", "\x9b", "\u202e", "\u2028"])
def test_a_run_folder_whose_name_would_change_a_line_is_refused(
    place: Place, character: str
) -> None:
    run_dir = place.make("run")
    renamed = run_dir.path.rename(place.runs / f"run{character}FAKE")
    for command in ("show", "logs", "resume", "stop"):
        assert run("runs", command, str(renamed)) == 8
    place.ledger.register(RunDir(renamed))
    assert place.ledger.runs() == []


@pytest.mark.parametrize(
    "swap",
    [
        pytest.param(lambda path: path.symlink_to("/dev/zero"), id="link"),
        pytest.param(os.mkfifo, id="named pipe"),
    ],
)
def test_a_list_of_runs_goes_on_where_one_of_them_cannot_be_read(
    place: Place, swap: Callable[[Path], None]
) -> None:
    good, bad = place.make("good"), place.make("bad")
    for file in (bad.status, bad.events, bad.metrics, bad.log, bad.recipe, bad.origin, bad.changes):
        file.path.unlink(missing_ok=True)
        swap(file.path)
    assert run("runs", "ls") == 0
    assert run("runs", "show", good.name) == 0
    assert run("runs", "show", bad.name) == 0
    assert run("runs", "show", str(bad.path)) == 8
    assert run("runs", "logs", bad.name) == 0


@pytest.mark.parametrize("out", [[], ["--out", "results"]], ids=["into the run", "elsewhere"])
@pytest.mark.parametrize("command", ["sample", "eval"])
def test_a_run_is_examined_before_its_adapter_is_drawn_or_measured(
    place: Place, command: str, out: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.runs)
    run_dir = place.make("run")
    mutate(place, run_dir, "samples", "link to a folder")
    before = snapshot(place.outside)
    assert run(command, str(run_dir.path), *out) == 8
    assert snapshot(place.outside) == before
    assert not (run_dir.path / "requests").exists()
