"""Opening, writing and comparing recipes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loba_tui.cli import app
from loba_tui.client.recipes import files as recipe_files
from loba_tui.core.errors import RecipeError, RefusedError, ResourceError
from loba_tui.core.recipe.shipped import folder, names
from loba_tui.core.run.directory import Ledger, RunDir

SLIDER = (folder() / "slider.yaml").read_text()


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Ledger.of_user(os.environ)


def make_run(tmp_path: Path, ledger: Ledger, name: str, text: str = SLIDER) -> RunDir:
    run = RunDir.create(tmp_path / "output", name, ledger=ledger)
    run.recipe.path.write_text(text)
    return run


def test_local_shipped_and_run_recipes_are_listed(tmp_path: Path, ledger: Ledger) -> None:
    here = tmp_path / "here"
    (here / "recipes" / "deep").mkdir(parents=True)
    for path in ("a.yaml", "notes.txt", "recipes/deep/b.yml", "other/c.yaml"):
        (here / path).parent.mkdir(exist_ok=True)
        (here / path).write_text(SLIDER)
    old, new = make_run(tmp_path, ledger, "old"), make_run(tmp_path, ledger, "new")
    found = recipe_files.listing(here, ledger)
    labels = {origin: [f.label for f in found if f.origin == origin] for origin in ("local", "run")}
    assert labels == {"local": ["a.yaml", "recipes/deep/b.yml"], "run": [new.name, old.name]}
    assert [f.label for f in found if f.origin == "shipped"] == names()
    assert [f.is_writable for f in found] == [f.origin == "local" for f in found]
    assert all(f.modified > 0 for f in found)


def test_writing_keeps_mode_and_link_and_never_overwrites_what_it_has_not_seen(
    tmp_path: Path,
) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    real.write_text("a: 1\n")
    real.chmod(0o640)
    link.symlink_to(real)
    recipe_files.write(link, "a: 2\n", was="a: 1\n")
    assert (real.read_text(), real.stat().st_mode & 0o777) == ("a: 2\n", 0o640)
    assert link.is_symlink()
    with pytest.raises(RecipeError, match="changed by somebody else"):
        recipe_files.write(link, "a: 3\n", was="a: 1\n")
    with pytest.raises(RecipeError, match="exists already"):
        recipe_files.write(link, "a: 3\n", was=None)
    with pytest.raises(RefusedError):
        recipe_files.write(link, "a: hf_" + "Ab1" * 12, was="a: 2\n")
    with pytest.raises(ResourceError):
        recipe_files.write(tmp_path / "no" / "folder.yaml", "a: 3\n", was=None)
    real.unlink()
    with pytest.raises(RecipeError, match="is gone"):
        recipe_files.write(real, "a: 3\n", was="a: 2\n")
    recipe_files.write(tmp_path / "new.yaml", "a: 3\n", was=None)
    assert (tmp_path / "new.yaml").read_text() == "a: 3\n"


def test_the_command_compares_files_shipped_recipes_and_runs(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(SLIDER.replace("lr: 1.0e-3", "lr: 2.0e-3"))
    run = make_run(tmp_path, ledger, "size")

    def diff(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["recipe", "diff", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert diff("slider", "mine.yaml") == "optimizer.lr: 0.001 -> 0.002\n"
    assert json.loads(diff("mine.yaml", "last", "--json")) == [
        {"key": "optimizer.lr", "left": 2e-3, "right": 1e-3}
    ]
    assert diff(str(run.path), "slider.yaml") == ""
    done = CliRunner().invoke(app, ["recipe", "diff", "slider", "no-such-thing"])
    assert done.exit_code == 2
    assert "no-such-thing is neither a recipe nor a run" in done.stderr
