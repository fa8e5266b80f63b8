"""Who needs a repository: runs of the ledger and recipe files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loba_tui.core.associate.caches.hub.layout import Repository, Revision
from loba_tui.core.associate.caches.hub.usage import base_model, usage_of
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import dump_recipe, parse_recipe
from loba_tui.core.run.directory import Ledger, RunDir

ONE, TWO = "1" * 40, "2" * 40
MODEL = Repository(
    "models--org--name",
    "model",
    "org/name",
    (Revision(ONE, (), ("main",), 1.0), Revision(TWO, (), (), 2.0)),
    refs={"main": ONE},
)


def recipe_text(model_id: str, revision: str | None) -> str:
    mapping = {
        "version": 1,
        "base_model": {"id": model_id} | ({"revision": revision} if revision else {}),
        "method": {
            "name": "text_slider",
            "concepts": [{"target": "a", "positive": "b", "negative": "c"}],
        },
    }
    return dump_recipe(parse_recipe(mapping, plugins=SHIPPED))


@pytest.mark.parametrize("model_id", ["org/name", "it's", 'a "b"', "a: b", "#x", "ü/é", "1e3"])
@pytest.mark.parametrize("revision", [None, "main", TWO, "refs/pr/1", "v1#not-a-comment"])
def test_a_resolved_recipe_is_read_by_lines_as_a_parser_would(model_id, revision):
    found = base_model(recipe_text(model_id, revision))
    assert found is not None
    assert (found.id, found.revision) == (model_id, revision)


@pytest.mark.parametrize(
    "text",
    [
        "base_model: {id: org/name, revision: v1}",
        "base_model:\n  # ours\n  dtype: auto\n\n  id: org/name # x\n  revision: 'v1'\nname: x",
        '{"version": 1, "base_model": {"id": "org/name", "revision": "v1"}}',
        'base_model:\n    revision: "v1"\n    id: "org/name"',
    ],
)
def test_recipes_as_people_write_them(text):
    found = base_model(text)
    assert found is not None
    assert (found.id, found.revision) == ("org/name", "v1")


@pytest.mark.parametrize("text", ["", "name: x", "base_model:", "base_model: {", "base_model: 3"])
def test_what_names_no_model_needs_none(text):
    assert base_model(text) is None


def make_run(ledger: Ledger, place: Path, revision: str | None, commit: str | None) -> RunDir:
    run_dir = RunDir.create(place, "slider", ledger=ledger)
    run_dir.recipe.path.write_text(recipe_text("org/name", revision))
    status = {"phase": "stopped", "step": 3, "total": 9, "heartbeat": 1000.0}
    run_dir.status.path.write_text(json.dumps(status))
    if commit:
        event = {"event": "started", "time": 1.0, "base_model_revision": commit}
        run_dir.events.path.write_text(json.dumps({"event": "warning"}) + "\n" + json.dumps(event))
    return run_dir


def test_runs_are_read_with_the_commit_that_they_loaded(tmp_path):
    ledger = Ledger(tmp_path / "runs.jsonl")
    make_run(ledger, tmp_path, None, TWO)
    make_run(ledger, tmp_path, None, None)
    make_run(ledger, tmp_path, TWO, None)
    (tmp_path / "unrelated").mkdir()
    ledger.register(RunDir(tmp_path / "unrelated"))
    usage = usage_of(ledger)
    assert [run.commit for run in usage.runs] == [TWO, None, None]
    assert {run.state for run in usage.runs} == {"resumable"}
    assert len(usage.runs_of(MODEL)) == 3
    assert len(usage.runs_of(MODEL, ONE)) == 1
    assert len(usage.runs_of(MODEL, TWO)) == 2
    assert usage.last_used(MODEL) == 1000.0


def test_a_run_whose_commit_cannot_be_told_needs_every_revision(tmp_path):
    ledger = Ledger(tmp_path / "runs.jsonl")
    make_run(ledger, tmp_path, "a-branch-that-is-gone", None)
    usage = usage_of(ledger)
    assert usage.runs_of(MODEL, ONE)
    assert usage.runs_of(MODEL, TWO)


def test_recipes_are_found_in_folders_and_broken_ones_need_nothing(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.yaml").write_text(recipe_text("org/name", None))
    (tmp_path / "b.yml").write_text(recipe_text("org/name", TWO))
    (tmp_path / "broken.yaml").write_bytes(b"base_model:\n  id: \xff")
    (tmp_path / "huge.yaml").write_text("base_model:\n  id: org/name\n" + "#" * 300_000)
    usage = usage_of(Ledger(tmp_path / "runs.jsonl"), [tmp_path, tmp_path / "missing.yaml"])
    assert {recipe.path.name for recipe in usage.recipes} == {"a.yaml", "b.yml"}
    assert [recipe.path.name for recipe in usage.recipes_of(MODEL, TWO)] == ["b.yml"]
