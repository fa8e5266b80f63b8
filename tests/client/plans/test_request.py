"""`loba plan`: the real program once, and what is asked of it when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from loba_tui.client.plans import request as planning
from loba_tui.client.plans.request import PlanCache, fingerprint, plan
from loba_tui.client.plans.text import data_lines
from loba_tui.core.errors import CorruptError, ResourceError
from loba_tui.core.plugins import SHIPPED, Plugins
from loba_tui.core.plugins.user import UserPlugins
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launch import PLAN, Request

RECIPE: dict[str, Any] = {
    "version": 1,
    "base_model": {"id": "builtin:shapes-xl"},
    "method": {
        "name": "text_slider",
        "concepts": [{"target": "a shape", "positive": "large", "negative": "small"}],
    },
}


class Program:
    """Answers as the program does, and counts how often it is asked."""

    def __init__(self, answer: str = '{"noise": {}}', error: Exception | None = None) -> None:
        self.answer, self.error = answer, error
        self.folders: list[Path] = []

    def request(self, folder: RunDir, wanted: Request) -> list[Any]:
        assert wanted.action == "plan"
        assert "text_slider" in (wanted.recipe or "")
        self.folders.append(folder.path)
        if self.error is not None:
            raise self.error
        (folder.path / PLAN).write_text(self.answer)
        return []


def recipe_with(**sections: Any) -> Recipe:
    return parse_recipe({**RECIPE, **sections}, plugins=SHIPPED)


def test_the_program_is_asked_once_for_each_recipe(tmp_path: Path) -> None:
    program, cache = Program(), PlanCache(tmp_path / "plans")
    first = plan(recipe_with(), program, cache=cache, plugins=SHIPPED)  # type: ignore[arg-type]
    assert plan(recipe_with(), program, cache=cache, plugins=SHIPPED) == first  # type: ignore[arg-type]
    assert len(program.folders) == 1
    plan(recipe_with(train={"steps": 3}), program, cache=cache, plugins=SHIPPED)  # type: ignore[arg-type]
    plan(recipe_with(), program, cache=cache, most_seconds=-2.0, plugins=SHIPPED)  # type: ignore[arg-type]
    assert len(program.folders) == 3
    assert not any(folder.exists() for folder in program.folders)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "plans").iterdir())


def test_an_old_answer_is_taken_only_where_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, cache = Program(), PlanCache(tmp_path / "plans")
    monkeypatch.setattr(planning.time, "time", lambda: 1000.0)
    plan(recipe_with(), program, cache=cache, plugins=SHIPPED)  # type: ignore[arg-type]
    for now, most_seconds, num_asked in (
        (1200.0, 300.0, 1),
        (1400.0, 300.0, 2),
        (9999.0, float("inf"), 2),
        (10.0, float("inf"), 3),  # the clock was put back: nothing is known of its age
    ):
        monkeypatch.setattr(planning.time, "time", lambda now=now: now)
        plan(recipe_with(), program, cache=cache, most_seconds=most_seconds, plugins=SHIPPED)  # type: ignore[arg-type]
        assert len(program.folders) == num_asked


def test_a_damaged_or_unwritable_cache_costs_only_time(tmp_path: Path) -> None:
    program, cache = Program(), PlanCache(tmp_path / "plans")
    for text in ("", "[]", '{"version": 99, "sections": {}}', '{"version": 1}', "\0"):
        plan(recipe_with(), program, cache=cache, plugins=SHIPPED)  # type: ignore[arg-type]
        (path,) = (tmp_path / "plans").iterdir()
        path.write_text(text)
    assert len(program.folders) == 5
    (tmp_path / "file").write_text("")
    for folder in (None, tmp_path / "file" / "plans"):
        plan(recipe_with(), program, cache=PlanCache(folder), plugins=SHIPPED)  # type: ignore[arg-type]
    assert len(program.folders) == 7


def test_the_cache_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MOST_KEPT", 3)
    cache = PlanCache(tmp_path)
    for number in range(6):
        cache.put(f"{number}", {"version": 1, "sections": {}, "time": 0.0})
        os.utime(tmp_path / f"{number}.json", (number, number))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["3", "4", "5"]


def test_what_a_plan_depends_on_changes_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "loba" / "plugins"
    (folder / "timestep").mkdir(parents=True, mode=0o700)
    for each in (folder, folder.parent):
        each.chmod(0o700)
    path = folder / "timestep" / "mine.py"
    mine = Plugins(UserPlugins(folder, tmp_path / "loba" / "trusted.json"))
    model = tmp_path / "model"
    (model / "unet").mkdir(parents=True)
    seen = set()

    def note(text: str = "def get_timestep_scheduler(): ...\n") -> None:
        path.write_text(text)
        path.chmod(0o600)
        mine.user.trust(mine.user.read("timestep", "mine"))
        mapping = {
            **RECIPE,
            "base_model": {"id": str(model)},
            "scheduler": {"timestep": {"name": "mine"}},
        }
        seen.add(fingerprint(parse_recipe(mapping, plugins=mine), mine))

    note()
    note()
    assert len(seen) == 1
    note("def get_timestep_scheduler(): return None\n")
    assert len(seen) == 2
    (model / "unet" / "config.json").write_text("{}")
    note("def get_timestep_scheduler(): return None\n")
    assert len(seen) == 3


@pytest.mark.parametrize("answer", ["", "[]", "NaN"])
def test_an_unreadable_answer_is_told_and_not_kept(tmp_path: Path, answer: str) -> None:
    with pytest.raises(CorruptError):
        plan(recipe_with(), Program(answer), cache=PlanCache(tmp_path), plugins=SHIPPED)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_programs_own_error_is_handed_on(tmp_path: Path) -> None:
    program = Program(error=ResourceError("no room"))
    with pytest.raises(ResourceError, match="no room"):
        plan(recipe_with(), program, cache=PlanCache(tmp_path), plugins=SHIPPED)  # type: ignore[arg-type]
    assert not program.folders[0].exists()


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    homes = {name: str(tmp_path / name) for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    return {**os.environ, **homes, "TMPDIR": str(tmp_path)}


def loba(
    arguments: Sequence[str], environ: Mapping[str, str], encoding: str = "utf-8"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "loba_tui.cli", *arguments],
        env={**environ, "PYTHONIOENCODING": encoding},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.mark.slow
def test_a_shipped_recipe_is_planned_drawn_and_cached(
    tmp_path: Path, environ: Mapping[str, str]
) -> None:
    done = loba(["plan", "slider", "--json"], environ)
    assert done.returncode == 0, done.stderr
    sections = json.loads(done.stdout)["sections"]
    assert set(sections) >= {"learning_rate", "layers", "timesteps", "noise"}
    assert not list(tmp_path.glob("loba-plan-*"))

    drawn = loba(["plan", "slider"], environ)
    assert drawn.returncode == 0
    assert "\x1b" not in drawn.stdout + drawn.stderr
    assert "finished" not in drawn.stderr  # from the cache: no program was started
    for said in ("learning rate: ", "mid_block", "timesteps: ", "σ", "█"):
        assert said in drawn.stdout
    plain = loba(["plan", "slider"], environ, encoding="ascii")
    assert plain.returncode == 0
    assert plain.stdout.isascii()
    assert "#" in plain.stdout


def test_a_mistake_is_told_without_starting_anything(
    tmp_path: Path, environ: Mapping[str, str]
) -> None:
    wrong = loba(["plan", "slider", "--set", "train.stepz=1"], environ)
    assert wrong.returncode == 2
    assert "Did you mean steps?" in wrong.stderr
    assert wrong.stdout == ""


def test_of_many_captions_that_are_too_long_some_are_shown_and_all_are_counted() -> None:
    found = {"images": 1, "captions": 30, "bad": 0, "buckets": {"32x32": 1}}
    cut = {f"caption {number}": "end" for number in range(30)}
    lines = list(data_lines({**found, "cut_captions": cut}))
    assert sum("caption " in line for line in lines) == 20
    assert lines[-1].startswith("and 10 more captions")
    assert list(data_lines({**found, "cut_captions": {}})) == lines[:2]
    assert "not known" in list(data_lines({**found, "cut_captions": None}))[-1]
