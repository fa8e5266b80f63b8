"""The dashboard's frame: screens, help, palette, filter, keymap, and terminals of every size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dashboard import (
    HOSTILE,
    drive,
    environment,
    make_app,
    record_run,
    screen_text,
    shown_keys,
    until,
)
from textual.pilot import Pilot

from loba_tui.core.errors import RecipeError
from loba_tui.widgets.bars import KeyBar
from loba_tui.widgets.dialogs import ChoiceDialog, TextDialog
from loba_tui.widgets.table import MarkTable


def loba(arguments: list[str], home: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "loba_tui.cli", *arguments],
        env={**os.environ, **environment(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=home,
        timeout=60,
    )


def test_help_names_the_keys_of_the_screen_and_their_ids(tmp_path: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        assert isinstance(pilot.app.screen, TextDialog)
        text = pilot.app.screen.text
        assert "runs.delete" in text
        assert "table.mark" in text
        await pilot.press("q")
        assert not isinstance(pilot.app.screen, TextDialog)

    record_run(tmp_path)
    drive(make_app(tmp_path), story)


@pytest.mark.parametrize("key", ["colon", "ctrl+p"])
def test_the_palette_runs_an_action_by_its_name(key: str, tmp_path: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        table = pilot.app.screen.query_one(MarkTable)
        await until(pilot, lambda: len(shown_keys(table)) == 2)
        await pilot.press(key)
        assert isinstance(pilot.app.screen, ChoiceDialog)
        await pilot.press(*"mark all", "enter")
        await until(pilot, lambda: len(table.marked) == 2)

    record_run(tmp_path, "one")
    record_run(tmp_path, "two")
    drive(make_app(tmp_path), story)


def test_every_action_of_the_palette_has_a_description_and_an_id(tmp_path: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        for active in pilot.app.screen.active_bindings.values():
            if active.binding.system or active.node is pilot.app.screen.focused:
                continue
            if not active.binding.description:
                assert active.binding.action.startswith(("app.focus", "screen.", "app."))
            elif type(active.node).__module__.startswith("loba_tui"):
                assert active.binding.id, active.binding

    record_run(tmp_path)
    drive(make_app(tmp_path), story)


def test_a_small_terminal_shows_one_line_and_comes_back(tmp_path: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        table = pilot.app.screen.query_one(MarkTable)
        await until(pilot, lambda: len(shown_keys(table)) == 1)
        await pilot.resize_terminal(59, 14)
        await pilot.pause()
        assert screen_text(pilot.app).strip() == "1 runs, none alive"
        for size in ((1, 1), (2, 1), (300, 1), (1, 100), (100, 30)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
        assert "size-slider" in screen_text(pilot.app)
        await pilot.press("space")
        assert len(table.marked) == 1

    record_run(tmp_path)
    drive(make_app(tmp_path), story)


def test_messages_are_shown_as_they_are_and_give_way_to_the_keys(tmp_path: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        bar = pilot.app.screen.query_one(KeyBar)
        bar.tell(HOSTILE, "bad")
        assert bar.text == " ! red[/bold][@click=app.quit]x"

    drive(make_app(tmp_path), story)


def test_a_key_of_ones_own_takes_the_place_of_the_house_key(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "loba"
    folder.mkdir(parents=True)
    (folder / "keymap.yaml").write_text("table.all: [A, ctrl+t]\n")

    async def story(pilot: Pilot[None]) -> None:
        table = pilot.app.screen.query_one(MarkTable)
        await until(pilot, lambda: len(shown_keys(table)) == 1)
        await pilot.press("a")
        assert table.marked == []
        await pilot.press("ctrl+t")
        assert len(table.marked) == 1

    record_run(tmp_path)
    drive(make_app(tmp_path), story)


def test_mistakes_of_a_keymap_are_told_with_file_line_and_nearest_id(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "loba"
    folder.mkdir(parents=True)
    (folder / "keymap.yaml").write_text("runs.stop: S\nruns.delet: D\napp.quit: ctlr+q\n")
    with pytest.raises(RecipeError) as caught:
        make_app(tmp_path)
    text = str(caught.value)
    assert "keymap.yaml:2:1: runs.delet: there is no binding of this id" in text
    assert "Did you mean runs.delete?" in text
    assert "keymap.yaml:3:11: app.quit: ctlr is no modifier; did you mean ctrl?" in text


def test_two_actions_of_one_screen_cannot_have_the_same_key(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "loba"
    folder.mkdir(parents=True)
    (folder / "keymap.yaml").write_text("# mine\nruns.stop: d\n")
    with pytest.raises(RecipeError, match=r"keymap.yaml:2:12: runs.stop: d is runs.delete too"):
        make_app(tmp_path)


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    run = record_run(tmp_path, "size-[bold][@click=app.quit]x")
    listed = loba(["tui"], tmp_path)
    assert listed.returncode == 0
    assert b"finished  40/100" in listed.stdout
    followed = loba(["tui", "--run", str(run.path)], tmp_path)
    assert followed.returncode == 0
    assert b"finished: the program said finished" in followed.stdout
    assert b"\x1b" not in listed.stdout + followed.stdout


def test_an_empty_list_tells_how_to_begin(tmp_path: Path) -> None:
    listed = loba(["tui"], tmp_path)
    assert b"loba run slider" in listed.stdout


def test_sixteen_colours_are_the_terminals_own(tmp_path: Path) -> None:
    poor = {**environment(tmp_path), "TERM": "xterm", "COLORTERM": ""}
    app = make_app(tmp_path, environ=poor)
    assert app.theme == "ansi-dark"
    assert app.native_ansi_color
    assert make_app(tmp_path).theme == "loba"
