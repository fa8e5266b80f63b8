"""A finished run goes on with more steps, says so in its file, and is replayed to the same one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from program_runs import adapter_hashes, events, new_run, run_here, shape_slider

from loba_tui.client.runs.start import change_arguments
from loba_tui.core.adapter_metadata import LEGS_KEY, STEERING_KEY, STEP_KEY
from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.run.changes import Change, ChangeRecord
from loba_tui.core.run.directory import checkpoint_names
from loba_tui.core.run.reader import RunReader

QUICK = {"sample": {"steps": 1, "scales": [-1, 1]}, "proof": {"enabled": False}}


def steps(number: int) -> dict[str, int]:
    return {"steps": number, "batch_size": 1}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_finished_run_is_given_more_steps_and_replayed(tmp_path: Path) -> None:
    cosine = {"model": {"name": "cosine"}}
    recipe = shape_slider(2, train=steps(2), scheduler=cosine, **QUICK)
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    short = adapter_hashes(run_dir)
    assert LEGS_KEY not in check_safetensors(run_dir.adapter.path)["__metadata__"]

    run_here(recipe, run_dir, resume=True, train__steps=4)
    assert adapter_hashes(run_dir) != short
    metadata = check_safetensors(run_dir.adapter.path)["__metadata__"]
    assert json.loads(metadata[LEGS_KEY]) == [2, 4]
    assert metadata[STEP_KEY] == "4"
    assert json.loads(metadata[STEERING_KEY])["changes"] == [
        {"step": 2, "key": "train.steps", "old": 2, "new": 4}
    ]
    assert [event["step"] for event in events(run_dir, "steered")] == [2]
    # The schedule is from then on what it were if the recipe had asked for four steps.
    rates = [metric.lr for metric in RunReader(run_dir).new_metrics()]
    wanted = [
        0.5 * (1 + math.cos(math.pi * k / total)) for k, total in ((0, 2), (1, 2), (2, 4), (3, 4))
    ]
    assert [rate / 2e-4 for rate in rates] == pytest.approx(wanted)

    again = new_run(recipe, tmp_path)
    again.changes.path.write_text(metadata[STEERING_KEY])
    run_here(recipe, again)
    assert adapter_hashes(again) == adapter_hashes(run_dir)

    # A third leg, and what no leg can be.
    run_here(recipe, run_dir, resume=True, train__steps=5)
    metadata = check_safetensors(run_dir.adapter.path)["__metadata__"]
    assert json.loads(metadata[LEGS_KEY]) == [2, 4, 5]
    with pytest.raises(RecipeError, match="5 steps are done already"):
        run_here(recipe, run_dir, resume=True, train__steps=3)
    with pytest.raises(RecipeError, match="5 steps are done already"):
        change_arguments(run_dir, ["train.steps=5"], SHIPPED)
    assert change_arguments(run_dir, ["train.steps=9", "optimizer.lr=1e-5"], SHIPPED) == [
        *("--set", "train.steps=9"),
        *("--set", "optimizer.lr=1e-05"),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_run_that_has_ended_itself_gets_no_more_steps(tmp_path: Path) -> None:
    stop_when = {"gain": 1e9, "patience": 1, "dead_after": 1}
    train = {**steps(3), "efficacy_every": 1, "stop_when": stop_when}
    recipe = shape_slider(2, train=train, **QUICK)
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    assert events(run_dir, "ended_early")
    before = adapter_hashes(run_dir)
    with pytest.raises(RecipeError, match="the run has ended itself"):
        run_here(recipe, run_dir, resume=True, train__steps=9)
    assert not run_dir.changes.is_there()
    assert adapter_hashes(run_dir) == before


@pytest.mark.parametrize("override", ["train.batch_size=2", "adapter.rank=8", "base_model.id=x"])
def test_nothing_else_can_be_changed_of_a_run_that_has_begun(tmp_path: Path, override: str) -> None:
    run_dir = new_run(shape_slider(2), tmp_path)
    with pytest.raises(RecipeError, match="cannot be changed while a run goes on"):
        change_arguments(run_dir, [override], SHIPPED)


def test_a_run_without_a_checkpoint_begins_with_the_change(tmp_path: Path) -> None:
    run_dir = new_run(shape_slider(2), tmp_path)
    assert not checkpoint_names(run_dir.checkpoints)
    assert change_arguments(run_dir, ["train.steps=1"], SHIPPED) == ["--set", "train.steps=1"]


def test_legs_are_the_steps_at_which_a_run_was_finished() -> None:
    record = ChangeRecord()
    assert record.legs(7) == (7,)
    record = record.with_change(Change(3, "train.steps", 7, 5))  # changed while it went on
    record = record.with_change(Change(5, "train.steps", 5, 9))
    record = record.with_change(Change(6, "optimizer.lr", 1e-4, 2e-4))
    assert record.legs(9) == (5, 9)
    assert record.legs(5) == (5,)


def test_a_change_replaces_those_of_later_steps_that_were_lost() -> None:
    lost = Change(45, "train.steps", 90, 100)
    other = Change(46, "save.every", 0, 5)
    record = ChangeRecord((lost, other)).with_change(Change(40, "train.steps", 90, 200))
    assert [(change.step, change.new) for change in record.changes] == [(40, 200), (46, 5)]
