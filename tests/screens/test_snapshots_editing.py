"""What the Cache, Stack and Recipe screens look like, cell by cell, in three sizes.

After a wanted change: LOBA_SNAPSHOTS=write pytest tests/screens/test_snapshots_editing.py, then
look at the difference in git.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import hub_layouts as layouts
import pytest
from dashboard import drive, environment, make_app, shown_keys, until
from snapshots import compare
from textual.pilot import Pilot

from loba_tui.app import LobaApp
from loba_tui.core.recipe import shipped
from loba_tui.screens.recipe import rows as recipe_rows
from loba_tui.screens.recipe.yaml_area import YamlArea
from loba_tui.screens.stack.plan_pane import PlanPane
from loba_tui.widgets.line import Lines
from loba_tui.widgets.table import MarkTable

PLANNER = (sys.executable, str(Path(__file__).parents[1] / "support" / "planner.py"))
NOON = 1_795_000_000.0
DAY = 86400
LOOKS = [((80, 24), "true"), ((80, 24), "16"), ((120, 40), "true"), ((200, 60), "true")]
RECIPE = """\
# A recipe to look at.
version: 1
name: size-slider   # of the run

base_model: {id: "builtin:shapes-xl"}

method:
  name: text_slider
  concepts:
    - {target: a shape, positive: a large shape, negative: a small shape}

adapter:
  rank: 4

optimizer:
  name: adamw
  lr: 5.0e-4

train:
  steps: many
"""


def looks(function: Any) -> Any:
    names = [f"{size[0]}x{size[1]}-{palette}" for size, palette in LOOKS]
    return pytest.mark.parametrize(("size", "palette"), LOOKS, ids=names)(function)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    # Recipes come and go with the package; the look of the screens does not.
    monkeypatch.setattr(shipped, "names", lambda: [])
    monkeypatch.setattr(recipe_rows.time, "time", lambda: NOON + 7200)
    return tmp_path


def write_recipe(text: str) -> None:
    Path("mine.yaml").write_text(text)
    os.utime("mine.yaml", (NOON, NOON))


def app_at(home: Path, palette: str) -> LobaApp:
    poor = {"COLORTERM": "", "TERM": "xterm"} if palette == "16" else {}
    environ = {**environment(home), **poor, "HF_HUB_CACHE": str(home / "hub")}
    return make_app(home, environ=environ, program=PLANNER)


def name_of(screen: str, size: tuple[int, int], palette: str) -> str:
    return f"{screen}-{size[0]}x{size[1]}-{palette}"


@looks
def test_cache(home: Path, size: tuple[int, int], palette: str) -> None:
    one, two = layouts.commit_of("one"), layouts.commit_of("two")
    files = {"model_index.json": b"{}", "unet/w.safetensors": b"1" * 700_000}
    root = home / "hub"
    layouts.add_revision(root, "org/model", one, files, ref="main", age=9 * DAY)
    layouts.add_revision(root, "org/model", two, {"c.json": b"{2}"}, age=90 * DAY)
    layouts.add_revision(root, "org/other", two, {"w.safetensors": b"2" * 300_000}, ref="main")
    layouts.add_revision(root, "org/data", two[::-1], {"d.txt": b"d"}, kind="dataset", age=DAY)

    async def story(pilot: Pilot[None]) -> None:
        await pilot.press("3")
        table = pilot.app.screen.query_one("#tree", MarkTable)
        await until(pilot, lambda: len(shown_keys(table)) == 3)
        await pilot.press("enter", "j", "enter", "j", "space")
        await compare(pilot, name_of("cache", size, palette))

    drive(app_at(home, palette), story, size=size)


@looks
def test_stack(home: Path, size: tuple[int, int], palette: str) -> None:
    write_recipe(RECIPE.replace("steps: many", "steps: 70"))

    async def story(pilot: Pilot[None]) -> None:
        await pilot.press("4")
        screen = pilot.app.screen
        await until(pilot, lambda: len(shown_keys(screen.query_one("#form", MarkTable))) > 3)
        pane = screen.query_one(PlanPane)
        await until(pilot, lambda: not pane.is_waiting)
        await pilot.press("l", "j", "plus")
        await until(pilot, lambda: "0.00063" in pane.text and not pane.is_waiting)
        await compare(pilot, name_of("stack", size, palette))

    drive(app_at(home, palette), story, size=size)


@looks
def test_recipe(home: Path, size: tuple[int, int], palette: str) -> None:
    write_recipe(RECIPE)

    async def story(pilot: Pilot[None]) -> None:
        await pilot.press("5")
        area = pilot.app.screen.query_one(YamlArea)
        await until(pilot, lambda: area.problem_lines)
        await pilot.press("enter", "ctrl+n")
        problems = pilot.app.screen.query_one("#problems", Lines)
        await until(pilot, lambda: "train.steps" in problems.text)
        await compare(pilot, name_of("recipe", size, palette))

    drive(app_at(home, palette), story, size=size)
