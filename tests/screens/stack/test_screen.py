"""The stack editor: forms, curves, undo, diff and write, and changing a run while it goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dashboard import HOSTILE, comes, drive, environment, make_app, recipe_home, shown, until
from textual.pilot import Pilot

from loba_tui.app import LobaApp
from loba_tui.client.runs import steer as runs
from loba_tui.core.recipe.shipped import folder
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.writer import RunWriter
from loba_tui.screens.stack import apply as stack_applying
from loba_tui.screens.stack.plan_pane import PlanPane
from loba_tui.screens.stack.screen import StackScreen
from loba_tui.widgets.dialogs import ChoiceDialog, ConfirmDialog, LineDialog, TextDialog
from loba_tui.widgets.line import Lines
from loba_tui.widgets.table import MarkTable

SLIDER = (folder() / "slider_unet.yaml").read_text()
PLANNER = (sys.executable, str(Path(__file__).parents[2] / "support" / "planner.py"))


home = pytest.fixture(recipe_home, name="home")


def app_at(home: Path) -> LobaApp:
    return make_app(home, program=PLANNER)


async def opened(pilot: Pilot[None]) -> StackScreen:
    """Show the screen and wait until its recipe is drawn."""
    await pilot.press("4")
    screen = await comes(pilot, StackScreen)
    form = screen.query_one("#form", MarkTable)
    await until(pilot, lambda: form.cursor_key is not None)
    await until(pilot, lambda: not screen.query_one(PlanPane).is_waiting)
    return screen


def text_of(screen: StackScreen) -> str:
    assert screen._model is not None
    return screen._model.text


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_parts_form_words_curve_and_memory_are_all_there(home: Path, size: tuple[int, int]) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("l", "j")
        await pilot.pause()
        text = shown(pilot)
        rows = text.splitlines()
        assert len(rows) == size[1]
        for word in ("Optimizer", "Timesteps", "adamw", "weight_decay", "0.0005"):
            assert word in text
        assert "A number greater than 0" in text
        assert "learning rate: constant, 70 steps" in text
        assert "4.0 MiB of 1.0 GiB free" in text
        assert "█" in text
        assert "mine.yaml" in rows[0]
        assert ("noise while sampling" in text) == (size != (80, 24))

    drive(app_at(home), story, size=size)


def test_a_change_is_in_the_form_in_the_curve_and_in_the_estimate_and_undo_takes_it_back(
    home: Path,
) -> None:
    async def story(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        pane = screen.query_one(PlanPane)
        await pilot.press("l", "j", "plus")
        assert "  lr: 0.00063\n" in text_of(screen)
        await until(pilot, lambda: "0.00063" in pane.text)
        assert "mine.yaml *" in shown(pilot)
        await pilot.press("h", *"jjjjjj", "l", "j", "plus")  # the adapter's rank
        await until(pilot, lambda: "5.0 MiB of 1.0 GiB free (+1.0 MiB)" in pane.text)
        await pilot.press("z", "z")
        assert text_of(screen) == SLIDER
        await until(pilot, lambda: "4.0 MiB of 1.0 GiB free" in pane.text)
        await pilot.press("z")
        assert "nothing to undo" in shown(pilot)
        assert (Path("mine.yaml")).read_text() == SLIDER

    drive(app_at(home), story)


def test_a_drop_in_is_chosen_from_a_list_with_its_own_words(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        await pilot.press("l", "enter")
        await comes(pilot, ChoiceDialog)
        text = shown(pilot)
        assert "Loshchilov" in text
        assert pilot.app.screen.query_one(MarkTable).cursor_key == "adamw"
        await pilot.press(*"lion", "enter")
        await until(pilot, lambda: "name: lion" in text_of(screen))
        assert screen.query_one("#form", MarkTable).cursor_key == "optimizer.name"
        await pilot.press("0")  # back to the default
        assert "name: lion" not in text_of(screen)

    drive(app_at(home), story)


def test_a_value_that_does_not_fit_is_told_and_never_taken(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        await pilot.press("l", "j", "enter")
        await comes(pilot, LineDialog)
        await pilot.press("ctrl+u", *"fast", "enter")
        wrong = pilot.app.screen.query_one("#wrong", Lines)
        await until(pilot, lambda: "expected a number greater than 0, got 'fast'" in wrong.text)
        await pilot.press("ctrl+u", *"1e-3", "enter")
        await until(pilot, lambda: "  lr: 1e-3\n" in text_of(screen))
        await pilot.press("minus", "j", "j", "j", "j", "k", "minus")
        assert len(text_of(screen).splitlines()) > len(SLIDER.splitlines())

    drive(app_at(home), story)


def test_writing_shows_the_diff_first_and_keeps_every_other_line(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("w")
        assert "Nothing has changed" in shown(pilot)
        await pilot.press("l", "j", "plus", "w")
        dialog = await comes(pilot, ConfirmDialog)
        assert "-  lr: 5.0e-4" in dialog.text
        assert "+  lr: 0.00063" in dialog.text
        await pilot.press("n")
        assert Path("mine.yaml").read_text() == SLIDER
        await pilot.press("ctrl+s", "y")
        edited = SLIDER.replace("lr: 5.0e-4", "lr: 0.00063")
        await until(pilot, lambda: Path("mine.yaml").read_text() == edited)
        await until(pilot, lambda: "wrote" in shown(pilot))

    drive(app_at(home), story)


def test_a_file_that_somebody_else_has_changed_is_not_overwritten(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("l", "j", "plus")
        Path("mine.yaml").write_text("theirs\n")
        await pilot.press("w", "y")
        await until(pilot, lambda: "changed by somebody else" in shown(pilot))
        assert Path("mine.yaml").read_text() == "theirs\n"

    drive(app_at(home), story, size=(200, 60))


def test_a_shipped_recipe_is_written_as_a_copy(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("f")
        await comes(pilot, ChoiceDialog)
        await pilot.press(*"slider_brightness", "enter")
        screen = await comes(pilot, StackScreen)
        await until(pilot, lambda: screen._file is not None and screen._file.origin == "shipped")
        shipped = screen._file
        await pilot.press("l", "j", "plus", "w")
        await comes(pilot, LineDialog)
        await pilot.press("ctrl+u", *"copy.yaml", "enter")
        await comes(pilot, ConfirmDialog)
        await pilot.press("y")
        await until(pilot, lambda: Path("copy.yaml").exists())
        await until(pilot, lambda: screen._file is not shipped)
        assert screen._file is not None
        assert screen._file.is_writable

    before = {path: path.read_bytes() for path in folder().rglob("*.yaml")}
    drive(app_at(home), story)
    assert {path: path.read_bytes() for path in folder().rglob("*.yaml")} == before


def test_a_recipe_with_problems_is_shown_with_them(home: Path) -> None:
    Path("mine.yaml").write_text(SLIDER.replace("lr: 5.0e-4", "weight_decy: 1"))

    async def story(pilot: Pilot[None]) -> None:
        await pilot.press("4")
        await until(pilot, lambda: "weight_decay?" in shown(pilot))
        await pilot.press("l", "plus", "z", "w", "0", "enter")
        assert isinstance(pilot.app.screen, StackScreen)

    drive(app_at(home), story, size=(120, 40))


def test_a_planner_that_cannot_start_is_told_and_the_forms_still_work(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await pilot.press("4")
        await until(pilot, lambda: "curves cannot be drawn" in shown(pilot))
        await pilot.press("l", "j", "plus")
        screen = pilot.app.screen
        assert isinstance(screen, StackScreen)
        assert "0.00063" in text_of(screen)

    drive(make_app(home, program=("/no/such/program",)), story, size=(120, 40))


def test_a_running_run_is_changed_as_far_as_it_can_be(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(home / "output", "size", ledger=Ledger.of_user(environment(home)))
    run.recipe.path.write_text(SLIDER)
    sent: list[tuple[str, object]] = []

    def steer(run_dir: RunDir, command: runs.Command) -> str:
        sent.append((command.args["key"], command.args["value"]))
        return "taken"

    monkeypatch.setattr(stack_applying.runs, "steer", steer)

    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("l", "j", "plus", "h", *"jjjjjj", "l", "j", "plus")
        await pilot.press("L")
        await comes(pilot, ChoiceDialog)
        await pilot.press("enter")
        dialog = await comes(pilot, ConfirmDialog)
        assert "optimizer.lr  0.0005 → 0.00063" in dialog.text
        assert "adapter.rank" in dialog.text
        assert "loba runs set" in dialog.text
        await pilot.press("y")
        await until(pilot, lambda: sent == [("optimizer.lr", 0.00063)])

    with RunWriter.open(run) as writer:
        writer.status(phase="training", step=1, total=10)
        drive(app_at(home), story)


def test_without_a_run_that_is_alive_nothing_is_applied(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("L")
        await until(pilot, lambda: "No run is alive" in shown(pilot))

    drive(app_at(home), story)


def test_hostile_names_and_values_stay_text(home: Path) -> None:
    name = f"evil{HOSTILE}.yaml".replace("/", "_")
    Path("mine.yaml").rename(name)
    folder = home / "config" / "loba" / "plugins" / "timestep"
    folder.mkdir(parents=True)
    doc = HOSTILE.encode("unicode_escape").decode()
    (folder / "evil.py").write_text(
        f'"""Evil {doc}."""\ndef get_timestep_scheduler(*, x: int = 1): ...\n'
    )

    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("h", *"jjjj", "l", "enter")
        await comes(pilot, ChoiceDialog)
        await pilot.press(*"evil", "enter")
        await until(pilot, lambda: "not trusted yet" in shown(pilot))
        for key in ("w", "D", "q", "f"):
            await pilot.press(key)
        text = shown(pilot)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[@click=app.quit]" in text

    from loba_tui.core.plugins import Plugins

    plugins = Plugins.of_user(environment(home))
    drive(make_app(home, program=PLANNER, plugins=plugins), story, size=(120, 40))


def test_what_has_changed_can_be_read_before_it_is_written(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("l", "j", "plus", "D")
        await comes(pilot, TextDialog)
        assert "+  lr: 0.00063" in pilot.app.screen.text

    drive(app_at(home), story)
