"""The Recipe screen: browse, type with problems on their lines, compare, write, start."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from dashboard import (
    HOSTILE,
    STAND_IN,
    comes,
    drive,
    environment,
    make_app,
    recipe_home,
    shown,
    shown_keys,
    until,
)
from textual.pilot import Pilot

from loba_tui.core.recipe.edit import set_key
from loba_tui.core.recipe.shipped import folder
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.screens.recipe.screen import RecipeScreen
from loba_tui.screens.recipe.yaml_area import YamlArea, harmless, tokens
from loba_tui.widgets.dialogs import ChoiceDialog, ConfirmDialog, LineDialog, TextDialog
from loba_tui.widgets.line import Lines
from loba_tui.widgets.table import MarkTable

SLIDER = (folder() / "slider_unet.yaml").read_text()


home = pytest.fixture(recipe_home, name="home")


async def opened(pilot: Pilot[None]) -> RecipeScreen:
    await pilot.press("5")
    screen = await comes(pilot, RecipeScreen)
    await until(pilot, lambda: screen.query_one(YamlArea).text)
    await until(pilot, lambda: screen.query_one("#problems", Lines).text)
    return screen


def problems(screen: RecipeScreen) -> str:
    return screen.query_one("#problems", Lines).text


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_list_text_and_verdict_are_all_there(home: Path, size: tuple[int, int]) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        text = shown(pilot)
        for word in ("mine.yaml", "local", "shipped", "base_model:", "✓ valid"):
            assert word in text
        assert len(text.splitlines()) == size[1]

    drive(make_app(home), story, size=size)


def test_a_mistake_is_marked_on_its_line_as_it_is_typed(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        area = screen.query_one(YamlArea)
        await pilot.press("enter")
        line = SLIDER.splitlines().index("  lr: 5.0e-4")
        area.move_cursor((line, 3))
        await pilot.press(*"rr")
        await until(pilot, lambda: area.problem_lines == [line + 1])
        told = f"{line + 1}:3 optimizer.lrrr: not an option"
        await until(pilot, lambda: told in problems(screen))
        await until(pilot, lambda: "mine.yaml *" in shown(pilot))
        drawn = area.get_line(line)
        assert any(span.end == len(drawn) and "bold" in str(span.style) for span in drawn.spans)
        await pilot.press("ctrl+home", "ctrl+n")
        await until(pilot, lambda: area.cursor_location[0] == line)
        await pilot.press("ctrl+z")
        await until(pilot, lambda: not area.problem_lines)
        await until(pilot, lambda: "valid" in problems(screen))

    drive(make_app(home), story)


def test_what_was_typed_stays_while_other_recipes_are_looked_at(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        area = screen.query_one(YamlArea)
        await pilot.press("enter", *"# mine", "enter", "ctrl+g", "j")
        await until(pilot, lambda: not area.text.startswith("# mine"))
        await pilot.press("n")
        await comes(pilot, ConfirmDialog)
        await pilot.press("n", "k")
        await until(pilot, lambda: area.text.startswith("# mine\n# A slider"))
        await pilot.press("n")
        await until(pilot, lambda: "Write the changes first" in shown(pilot))
        await pilot.press("z")
        await until(pilot, lambda: area.text == SLIDER and not screen._drafts._texts)
        assert Path("mine.yaml").read_text() == SLIDER

    drive(make_app(home), story)


def test_writing_shows_the_diff_and_takes_invalid_text_too(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("enter", *"steps", "ctrl+s")
        dialog = await comes(pilot, ConfirmDialog)
        assert "+steps# A slider" in dialog.text
        await pilot.press("y")
        await until(pilot, lambda: Path("mine.yaml").read_text() == f"steps{SLIDER}")
        await until(pilot, lambda: "mine.yaml *" not in shown(pilot))

    drive(make_app(home), story)


def test_two_recipes_are_compared_by_what_they_come_to_and_how_they_are_written(
    home: Path,
) -> None:
    run = RunDir.create(home / "output", "ancient", ledger=Ledger.of_user(environment(home)))
    run.recipe.path.write_text(set_key(SLIDER, ("train", "steps"), 9))

    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("c")
        await comes(pilot, ChoiceDialog)
        await pilot.press(*"ancient", "enter")
        dialog = await comes(pilot, TextDialog)
        assert re.search(r"train\.steps: \d+ -> 9", dialog.text)
        assert "+  steps: 9" in dialog.text

    drive(make_app(home), story)


def test_a_recipe_is_started_after_a_yes(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        await opened(pilot)
        await pilot.press("n")
        await comes(pilot, ConfirmDialog)
        await pilot.press("y")
        ledger = Ledger.of_user(environment(home))
        await until(pilot, lambda: ledger.runs() and ledger.runs()[0].events.path.exists())

    drive(make_app(home, program=STAND_IN), story)


def test_the_users_own_editor_edits_the_file(home: Path) -> None:
    editor = home / "editor.py"
    editor.write_text("import sys; open(sys.argv[1], 'a').write('# edited\\n')")

    async def story(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        screen._run_editor(Path("mine.yaml").absolute())
        # A test's terminal cannot be lent to another program; that is told, not raised.
        await until(pilot, lambda: "cannot be shown here" in shown(pilot))

    environ = {**environment(home), "EDITOR": f"{sys.executable} {editor}"}
    drive(make_app(home, environ=environ), story)


def test_a_new_recipe_is_written_and_shown(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        await pilot.press("N")
        await comes(pilot, LineDialog)
        await pilot.press("ctrl+u", *"fresh", "enter")
        await until(pilot, lambda: Path("fresh.yaml").exists())
        await until(
            pilot,
            lambda: (
                str(Path("fresh.yaml").absolute())
                == screen.query_one("#files", MarkTable).cursor_key
            ),
        )
        await until(pilot, lambda: "valid" in problems(screen))

    drive(make_app(home), story)


def test_a_recipe_that_cannot_be_read_or_holds_a_token_is_shown_with_the_reason(
    home: Path,
) -> None:
    token = "hf_" + "Ab1" * 12
    Path("mine.yaml").write_text(f"a: {token}\n")
    Path("other.yaml").write_bytes(b"\xff\xfe\x00")

    async def story(pilot: Pilot[None]) -> None:
        await pilot.press("5")
        await until(pilot, lambda: "looks like an access token" in shown(pilot))
        assert token not in shown(pilot)
        await pilot.press("j")
        await until(pilot, lambda: "is UTF-16" in shown(pilot))
        for key in ("w", "t", "D", "c"):
            await pilot.press(key)

    drive(make_app(home), story, size=(200, 60))


def test_hostile_text_is_drawn_as_text_and_kept_as_it_is(home: Path) -> None:
    text = f"a: {HOSTILE}\n# {HOSTILE}\n"
    Path("mine.yaml").write_text(text)
    Path(f"x{HOSTILE.replace('/', '_')}.yaml").write_text(SLIDER)

    async def story(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        await pilot.press("enter", *"x")
        await until(pilot, lambda: "[@click=app.quit]" in shown(pilot))
        drawn = shown(pilot)
        assert not set(drawn) & set("\x1b\x07\u202e\x9b")
        area = screen.query_one(YamlArea)
        await until(pilot, lambda: area.text == f"x{text}")
        for size in ((1, 1), (20, 5), (60, 15), (300, 100)):
            await pilot.resize_terminal(*size)

    drive(make_app(home), story)


def test_the_list_is_filtered(home: Path) -> None:
    async def story(pilot: Pilot[None]) -> None:
        screen = await opened(pilot)
        await pilot.press("slash", *"from:local", "enter")
        table = screen.query_one("#files", MarkTable)
        wanted = [str(Path("mine.yaml").absolute())]
        await until(pilot, lambda: shown_keys(table) == wanted)

    drive(make_app(home), story)


@pytest.mark.parametrize(
    ("line", "kinds"),
    [
        ("a: 1 # b: 2", ["key", "value", "comment"]),
        ("- name: 'x: # y'", ["mark", "key", "text"]),
        ("x: [1e-4, true, tru]", ["key", "mark", "value", "mark", "value", "mark", "mark"]),
        ("builtin:shapes-xl", []),
        ('"open', []),
    ],
)
def test_parts_of_a_line_have_their_colours(line: str, kinds: list[str]) -> None:
    assert [kind for kind, _, _ in tokens(line)] == kinds


def test_a_line_keeps_its_length_when_it_is_made_harmless() -> None:
    assert harmless("a\x1b[31m\u202eb\tc") == "a·[31m·b\tc"
