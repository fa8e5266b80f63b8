"""Actions that ask: one dialog at a time, however fast the keys come, and errors are told."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from dashboard import comes, drive, make_app, record_run, shown_keys, until
from textual.pilot import Pilot

from loba_tui.core.errors import RecipeError
from loba_tui.screens.runs import screen as runs
from loba_tui.screens.runs.rows import DeletionPlan
from loba_tui.screens.runs.screen import RunsScreen
from loba_tui.widgets.bars import KeyBar
from loba_tui.widgets.dialogs import ConfirmDialog, TextDialog


async def listed(pilot: Pilot[None]) -> RunsScreen:
    screen = await comes(pilot, RunsScreen)
    await until(pilot, lambda: len(shown_keys(screen.table)) == 1)
    return screen


def test_a_second_press_takes_the_place_of_the_first(tmp_path: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        screen = await listed(pilot)
        screen.action_delete()
        screen.action_delete()
        dialog = await comes(pilot, ConfirmDialog)
        screen.action_delete()  # typed ahead, and meant for the dialog that is there now
        dialog.action_leave()
        dialog.action_leave()
        await comes(pilot, RunsScreen)
        await until(pilot, lambda: not any(w.group == "asks" for w in pilot.app.workers))
        assert pilot.app.screen_stack == [screen]

    run = record_run(tmp_path)
    drive(make_app(tmp_path), story)
    assert run.path.exists()


def test_a_plan_that_comes_late_waits_until_nothing_is_over_its_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    class Slow(DeletionPlan):
        @classmethod
        def of(cls, chosen: Any) -> DeletionPlan:
            go_on.wait(30)
            return DeletionPlan.of(chosen)

    monkeypatch.setattr(runs, "DeletionPlan", Slow)

    async def story(pilot: Pilot[None]) -> None:
        await listed(pilot)
        await pilot.press("d", "question_mark")
        help_text = await comes(pilot, TextDialog)
        go_on.set()
        await pilot.pause(0.3)
        assert pilot.app.screen is help_text
        await pilot.press("q")
        await comes(pilot, ConfirmDialog)
        await pilot.press("n")

    record_run(tmp_path)
    drive(make_app(tmp_path), story)


def test_an_error_of_an_action_is_told_and_the_dashboard_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(chosen: object) -> None:
        raise RecipeError("It cannot be measured.")

    monkeypatch.setattr(DeletionPlan, "of", fail)

    async def story(pilot: Pilot[None]) -> None:
        screen = await listed(pilot)
        await pilot.press("d")
        await until(pilot, lambda: "cannot be measured" in screen.query_one(KeyBar).message)
        await pilot.press("question_mark")
        await comes(pilot, TextDialog)

    record_run(tmp_path)
    drive(make_app(tmp_path), story)
