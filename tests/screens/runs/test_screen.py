"""The list of runs: what it says of each, and what is done from it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from dashboard import (
    comes,
    drive,
    environment,
    make_app,
    record_run,
    screen_text,
    shown_keys,
    until,
)
from loba_command import Loba
from textual.pilot import Pilot
from textual.screen import Screen

from loba_tui.client.runs.summary import RunSummaries
from loba_tui.client.sweeps.mark import SweepMark
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.screens.runs.screen import RunsScreen
from loba_tui.widgets.bars import KeyBar
from loba_tui.widgets.dialogs import ChoiceDialog, ConfirmDialog, TextDialog
from loba_tui.widgets.table import MarkTable


def table_of(pilot: Pilot[None]) -> MarkTable:
    return pilot.app.screen_stack[0].query_one("#runs", MarkTable)


def message(pilot: Pilot[None]) -> str:
    return pilot.app.screen_stack[0].query_one(KeyBar).message


async def listed(pilot: Pilot[None], num: int) -> MarkTable:
    table = table_of(pilot)
    await until(pilot, lambda: len(shown_keys(table)) == num)
    return table


async def is_shown(pilot: Pilot[None], dialog: type[Screen[object]]) -> None:
    await comes(pilot, dialog)


def test_runs_are_listed_newest_first_and_a_dead_one_looks_dead(tmp_path: Path) -> None:
    record_run(tmp_path, "older")
    record_run(tmp_path, "gone", phase=None)
    record_run(tmp_path, "red[bold][@click=app.quit]x", phase="failed")

    async def story(pilot: Pilot[None]) -> None:
        await listed(pilot, 3)
        await pilot.pause()
        rows = screen_text(pilot.app).splitlines()
        assert "✗ failed" in rows[2]
        assert "✗ dead" in rows[3]
        assert "gone" in rows[3]
        assert "✓ finished" in rows[4]
        assert "40/100" in rows[4]
        assert "\x1b" not in "".join(rows)

    drive(make_app(tmp_path), story)


def test_the_trend_of_a_loss_shows_what_is_not_finite(tmp_path: Path) -> None:
    record_run(tmp_path)

    async def story(pilot: Pilot[None]) -> None:
        await listed(pilot, 1)
        await pilot.pause()
        row = screen_text(pilot.app).splitlines()[2]
        assert "█" in row
        assert "✗" in row
        assert "cpu" in row

    drive(make_app(tmp_path), story, size=(140, 30))


def test_without_runs_it_tells_how_to_begin(tmp_path: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "embedded example" in screen_text(pilot.app))
        await pilot.press("n")
        await is_shown(pilot, ChoiceDialog)
        await pilot.press("enter")
        await is_shown(pilot, ConfirmDialog)
        assert "builtin:shapes-xl" in screen_text(pilot.app)
        await pilot.press("y")
        await listed(pilot, 1)
        run = Ledger.of_user(environment(tmp_path)).runs()[0]
        await until(pilot, lambda: RunReader(run).liveness().state == "finished")

    drive(make_app(tmp_path), story)


def test_filter_narrows_the_list_down(tmp_path: Path) -> None:
    record_run(tmp_path, "red")
    record_run(tmp_path, "blue", phase="failed")

    async def story(pilot: Pilot[None]) -> None:
        table = await listed(pilot, 2)
        await pilot.press("slash", *"phase:fail", "enter")
        assert len(shown_keys(table)) == 1
        assert "blue" in shown_keys(table)[0]
        await pilot.press("slash", "escape")
        assert len(shown_keys(table)) == 2
        await pilot.press("slash", *"phse:x")
        assert "did you mean phase?" in message(pilot)

    drive(make_app(tmp_path), story)


def test_marked_runs_are_deleted_after_a_plan_and_a_yes(tmp_path: Path) -> None:
    runs = [record_run(tmp_path, name) for name in ("one", "two", "three")]

    async def story(pilot: Pilot[None]) -> None:
        await listed(pilot, 3)
        await pilot.press("space", "space", "d")
        await is_shown(pilot, ConfirmDialog)
        plan = screen_text(pilot.app)
        assert "Delete 2 runs and free" in plan
        assert "loba runs rm" in plan
        await pilot.press("n")
        assert all(run.path.is_dir() for run in runs)
        await pilot.press("d")
        await is_shown(pilot, ConfirmDialog)
        await pilot.press("y")
        await listed(pilot, 1)
        assert [run.path.is_dir() for run in runs] == [True, False, False]

    drive(make_app(tmp_path), story)


def test_a_run_that_is_alive_is_not_deleted_but_stopped(tmp_path: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await start(pilot)
        run = Ledger.of_user(environment(tmp_path)).runs()[0]
        await until(pilot, lambda: RunReader(run).liveness().state == "running")
        await until(pilot, lambda: "▶ training" in screen_text(pilot.app))
        await pilot.press("d")
        await is_shown(pilot, TextDialog)
        assert "Nothing of this can be deleted" in screen_text(pilot.app)
        await pilot.press("q", "X")
        await is_shown(pilot, ConfirmDialog)
        await pilot.press("y")
        await until(pilot, lambda: RunReader(run).liveness().state == "stopped")
        await until(pilot, lambda: "stopped at step" in message(pilot))
        await until(pilot, lambda: "stopped" in screen_text(pilot.app).splitlines()[2])
        await pilot.press("R")
        await until(pilot, lambda: RunReader(run).liveness().is_alive)
        await pilot.press("X", "y")
        await until(pilot, lambda: not RunReader(run).liveness().is_alive)

    drive(make_app(tmp_path), story)


async def start(pilot: Pilot[None]) -> None:
    """Start a stand-in that goes on for some seconds, as `n` does."""
    app = pilot.app
    screen = app.screen
    assert isinstance(screen, RunsScreen)
    run = RunDir.create(
        app.context.out_dir,
        "long",
        ledger=app.context.ledger,  # type: ignore[attr-defined]
    )
    run.recipe.path.write_text("name: long\n")
    from loba_tui.core.run import launch

    launch.launch(run, program=app.context.program)  # type: ignore[attr-defined]


def test_errors_are_messages(tmp_path: Path) -> None:
    record_run(tmp_path)

    async def story(pilot: Pilot[None]) -> None:
        await listed(pilot, 1)
        await pilot.press("R")
        await until(pilot, lambda: "nothing to resume" in message(pilot))
        await pilot.press("X")
        assert "None of these is alive" in message(pilot)
        await pilot.press("c")
        assert "Mark other runs" in message(pilot)

    drive(make_app(tmp_path), story)


def test_marked_runs_are_compared_in_the_monitor(tmp_path: Path) -> None:
    record_run(tmp_path, "one")
    record_run(tmp_path, "two")

    async def story(pilot: Pilot[None]) -> None:
        await listed(pilot, 2)
        await pilot.press("G", "space", "g", "c")
        await until(pilot, lambda: "━━" in screen_text(pilot.app))
        shown = screen_text(pilot.app)
        assert "two" in shown
        assert "╌╌" in shown

    drive(make_app(tmp_path), story)


def test_hundreds_of_runs_cost_little_after_the_first_look(tmp_path: Path) -> None:
    ledger = Ledger.of_user(environment(tmp_path))
    for number in range(300):
        run = RunDir(tmp_path / "output" / f"run-{number:04d}")
        run.path.mkdir(parents=True)
        run.status.path.write_text('{"phase": "finished", "step": 5, "total": 5, "heartbeat": 1.0}')
        run.metrics.path.write_text('{"step": 1, "loss": 0.5, "seconds": 0.1}\n' * 100)
        ledger.register(run)
    summaries = RunSummaries(ledger)
    first = summaries.look()
    assert len(first) == 300
    begin = time.process_time()
    second = summaries.look()
    # Some 15 ms; reading them all again takes ten times that.
    assert time.process_time() - begin < 0.5
    assert all(one is other for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("num_rows", [3, 5000])
def test_a_long_record_is_probed_and_a_short_one_read(tmp_path: Path, num_rows: int) -> None:
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.metrics.path.write_text(
        "".join(f'{{"step": {s}, "loss": {s}.0, "seconds": 0.5}}\n' for s in range(num_rows))
    )
    ledger = Ledger(tmp_path / "runs.jsonl")
    ledger.register(run)
    (summary,) = RunSummaries(ledger).look()
    assert summary.loss == num_rows - 1
    assert summary.rate == pytest.approx(2.0)
    assert list(summary.losses) == sorted(summary.losses)
    assert summary.losses[0] == 0.0
    assert summary.losses[-1] == num_rows - 1


def record_sweep(home: Path) -> list[RunDir]:
    """Record a run, and a sweep of three, the last of which failed; the second is the best."""
    record_run(home, "alone")
    runs = [record_run(home, f"size-{number}") for number in (1, 2)]
    runs.append(record_run(home, "size-3", phase="failed"))
    for number, run in enumerate(runs, start=1):
        SweepMark(home / "output" / "rates-sweep", number, {"optimizer.lr": f"{number}e-3"}).write(
            run
        )
    for run, rho in zip(runs, (0.4, 0.9), strict=False):
        report = {"outcome": "weak", "effect": {"rho": {"mean": rho}}}
        run.report.replace(json.dumps(report).encode())
    return runs


def test_a_sweep_is_one_row_that_opens(tmp_path: Path) -> None:
    runs = record_sweep(tmp_path)

    async def story(pilot: Pilot[None]) -> None:
        table = await listed(pilot, 2)
        await pilot.pause()
        row = screen_text(pilot.app).splitlines()[2]
        assert "▸ rates-sweep  best: run 2 (optimizer.lr=2e-3) weak" in row
        assert "2/3 done" in row
        await pilot.press("z")
        await until(pilot, lambda: len(shown_keys(table)) == 5)
        await pilot.pause()
        rows = screen_text(pilot.app).splitlines()
        assert "▾ rates-sweep" in rows[2]
        assert [f"lr={number}e-3  size-{number}-" in rows[2 + number] for number in (1, 2, 3)]
        assert "✗ failed" in rows[5]
        # From one of its runs the key closes it again, and the cursor is on the sweep.
        await pilot.press("down", "down", "z")
        await until(pilot, lambda: len(shown_keys(table)) == 2)
        assert table.cursor_key == f"sweep:{tmp_path / 'output' / 'rates-sweep'}"
        await pilot.press("slash", *"sweep:rates phase:fail", "enter")
        await until(pilot, lambda: shown_keys(table) == [str(runs[2].path)])
        await pilot.press("slash", "escape")
        await until(pilot, lambda: len(shown_keys(table)) == 2)
        # An action on the sweep's row is about all its runs.
        table.go_to(f"sweep:{tmp_path / 'output' / 'rates-sweep'}")
        await pilot.press("d")
        await is_shown(pilot, ConfirmDialog)
        assert "Delete 3 runs and free" in screen_text(pilot.app)

    drive(make_app(tmp_path), story, size=(200, 30))


def test_the_command_lists_the_runs_of_a_sweep_together(tmp_path: Path) -> None:
    runs = record_sweep(tmp_path)
    later = record_run(tmp_path, "later")
    loba = Loba(tmp_path, **environment(tmp_path))
    lines = loba.says("runs", "ls").splitlines()
    assert [line.startswith("  ") for line in lines] == [False, False, True, True, True, False]
    assert lines[1].startswith("unreadable")  # its own folder is not there: the runs are, still
    assert lines[5].endswith(str(later.path))
    shown = loba.says("runs", "show", runs[1].name)
    assert "rates-sweep, run 2: optimizer.lr=2e-3" in shown
    record = json.loads(loba.says("runs", "show", runs[1].name, "--json"))
    assert (record["sweep"]["run"], record["sweep"]["name"]) == (2, "rates-sweep")
    assert loba("runs", "ls", "--sweep", "nothing").returncode == 2
