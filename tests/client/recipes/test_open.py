"""Recipes that are named by their address on a hub, here one on loopback."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import talking_to
from hub_repos import KeptRepo
from hub_server import Fault, Hub, serve
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from typer.testing import CliRunner, Result

from loba_tui import cli
from loba_tui.client.runs import foreground
from loba_tui.core.run.directory import RunDir

RECIPE = (Path(__file__).parents[3] / "recipes/slider.yaml").read_bytes()
ADDRESS = "hub://me/sliders/size.yaml"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve({}) as served, talking_to(served, tmp_path, monkeypatch):
        repo = served.kept["me/sliders"] = KeptRepo()
        repo.commit("main", {"size.yaml": RECIPE, "weights.bin": b"x"}, "one")
        repo.refs["v1"] = repo.refs["main"]
        newer = RECIPE.replace(b"size-slider", b"newer-slider")
        repo.commit("main", {"size.yaml": newer}, "two")
        monkeypatch.chdir(tmp_path)
        yield served


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[RunDir]:
    """The runs that would have been started."""
    found: list[RunDir] = []
    monkeypatch.setattr(
        foreground.Foreground, "run", lambda _, run_dir, extra: [*map(found.append, [run_dir])][:0]
    )
    return found


def loba(*arguments: str) -> Result:
    done = CliRunner().invoke(cli.app, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_a_recipe_is_fetched_at_its_commit_shown_and_run(hub, started):
    done = loba("run", f"{ADDRESS}@v1", "--yes", "--set", "train.steps=3")
    assert done.exit_code == 0, done.stderr
    (run_dir,) = started
    commit = hub.kept["me/sliders"].refs["v1"]
    origin = f"hub://me/sliders/size.yaml@{commit}"
    assert f"{origin} (v1)" in done.stderr
    assert f"{hub.endpoint}/me/sliders/blob/{commit}/size.yaml" in done.stderr
    assert "  name: size-slider" in done.stderr
    assert json.loads(run_dir.origin.path.read_text())["recipe"] == origin
    assert "steps: 3" in run_dir.recipe.path.read_text()
    shown = json.loads(loba("runs", "show", str(run_dir.path), "--json").stdout)
    assert shown["origin"] == origin


def test_without_a_terminal_it_does_not_run_unless_told(hub, started, tmp_path):
    done = loba("run", ADDRESS)
    assert done.exit_code == 8
    assert "name: newer-slider" in done.stderr
    assert "--yes" in done.stderr
    assert not started
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(("answer", "runs"), [(b"y\n", True), (b"n\n", False)])
def test_on_a_terminal_it_asks(hub, tmp_path, answer, runs):
    code = (
        "from loba_tui.client.runs import foreground\n"
        "foreground.Foreground.run = lambda *_: print('it runs') or []\n"
        "from loba_tui.cli import main\nmain()"
    )
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    child = subprocess.run(
        [sys.executable, "-c", code, "run", ADDRESS],
        env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "other")},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(theirs)
    asked = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "Use it?" in asked
    assert child.returncode == 0
    assert ("it runs" in child.stdout) is runs


def test_validate_and_plan_take_an_address_too(hub):
    done = loba("validate", ADDRESS)
    assert done.exit_code == 0, done.stderr
    commit = hub.kept["me/sliders"].refs["main"]
    assert f"hub://me/sliders/size.yaml@{commit}: valid" in done.stdout


def test_paths_of_images_in_it_are_of_the_current_folder(hub, started, tmp_path):
    text = "version: 1\nname: photos\nbase_model: {id: builtin:shapes-xl}\n"
    text += "method: {name: lora_finetune}\ndata: {sources: [{path: my photos}]}\n"
    text += "sample: {prompts: [a cat]}\n"
    hub.kept["me/sliders"].commit("main", {"size.yaml": text.encode()}, "photos")
    done = loba("run", ADDRESS, "--yes")
    assert done.exit_code == 0, done.stderr
    assert f"path: {tmp_path / 'my photos'}\n" in started[0].recipe.path.read_text()


def test_two_revisions_of_a_recipe_can_be_compared(hub):
    done = loba("recipe", "diff", ADDRESS, f"{ADDRESS}@v1")
    assert "newer-slider" in done.stdout
    assert "size-slider" in done.stdout


def test_a_mistake_is_told_with_the_address_and_before_any_question(hub, started):
    mistaken = RECIPE.replace(b"\n  lr:", b"\n  lrr:")
    hub.kept["me/sliders"].commit("main", {"size.yaml": mistaken}, "bad")
    commit = hub.kept["me/sliders"].refs["main"]
    done = loba("run", ADDRESS)
    assert done.exit_code == 2
    line = 1 + RECIPE[: RECIPE.index(b"\n  lr:") + 1].count(b"\n")
    assert f"hub://me/sliders/size.yaml@{commit}:{line}:3: optimizer.lrr" in done.stderr
    assert not started


@pytest.mark.parametrize(
    ("change", "code", "phrase"),
    [
        ((b"name: adamw", b"name: os.system"), 2, "optimizer"),
        ((b"name: adamw", b"name: ../../evil"), 2, "optimizer"),
        ((b"version: 1", b"version: !!python/object/apply:os.system [ls]"), 2, "tag"),
        ((b"name: size-slider", b"name: hf_" + b"a" * 34), 8, "access token"),
    ],
)
def test_the_rules_of_local_recipes_hold(hub, started, change, code, phrase):
    hub.kept["me/sliders"].commit("main", {"size.yaml": RECIPE.replace(*change)}, "evil")
    done = loba("run", ADDRESS, "--yes")
    assert done.exit_code == code
    assert phrase in done.stderr
    assert "a" * 34 not in done.stderr
    assert not started


def test_what_a_terminal_would_obey_is_not_shown_as_it_is(hub, started):
    evil = RECIPE + b"# \x1b]0;owned\x07 \x1b[2J\xe2\x80\xae end\n"
    hub.kept["me/sliders"].commit("main", {"size.yaml": evil}, "evil")
    done = loba("run", ADDRESS)
    assert done.exit_code in (2, 8)
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr


@pytest.mark.parametrize(
    ("address", "phrase"),
    [
        ("hub://me/sliders/siez.yaml", "Did you mean size.yaml"),
        ("hub://me/sliders/weights.bin", "is not a recipe"),
        ("hub://me/sliders", "hub://user/repo/recipe.yaml"),
        ("hub://me/missing/size.yaml", "shows no me/missing"),
        ("hub://me/sliders/size.yaml@v9", "no revision 'v9'"),
        ("hub://me/sliders/@v1", "hub://user/repo/recipe.yaml"),
    ],
)
def test_what_is_not_there_is_explained(hub, started, address, phrase):
    done = loba("run", address, "--yes")
    assert done.exit_code == 2, done.stderr
    assert phrase in done.stderr
    assert not started


def test_a_file_too_large_for_a_recipe_is_not_fetched(hub):
    hub.kept["me/sliders"].commit("main", {"size.yaml": b"#" * 300_000}, "large")
    done = loba("validate", ADDRESS)
    assert done.exit_code == 2
    assert "at most" in done.stderr
    assert not hub.downloads("size.yaml")


def test_an_altered_recipe_is_refused(hub, started):
    hub.faults = [Fault("size.yaml", "alter")]
    done = loba("run", ADDRESS, "--yes")
    assert done.exit_code == 7
    assert not started


def test_offline_the_copy_in_the_cache_is_taken(hub, monkeypatch):
    assert loba("validate", ADDRESS).exit_code == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    assert loba("validate", ADDRESS).exit_code == 0
    done = loba("validate", f"{ADDRESS}@v1")
    assert done.exit_code == 4
    assert "cannot be reached" in done.stderr
