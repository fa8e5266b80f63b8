"""The adapter of the best step: by each kind of figure, beside the checkpoints, and exactly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from program_runs import adapter_hashes, events, new_run, run_here, stop_after
from torch import nn

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import read_adapter
from loba_tui.core.program.evaluation.measure import MeasureContext
from loba_tui.core.program.validation.best import BestAdapter, RunResult
from loba_tui.core.program.validation.drawn_figure import figure_of
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.best import BestSection
from loba_tui.core.recipe.sections.method import Choice
from loba_tui.core.run.directory import RunDir, checkpoint_names

STEPS = 6


class Files:
    """Where a test sees what would be written."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.is_empty = False

    def write(self, step: int, metadata: dict[str, str]) -> bool:
        if not self.is_empty:
            self.written.append(step)
        return not self.is_empty

    def remove(self) -> None:
        self.written.clear()


def best_by(by: str = "validation_loss", **options: Any) -> BestAdapter:
    files: Any = Files()
    return BestAdapter(BestSection(by=by, **options), files, None)  # type: ignore[arg-type]


def considered(best: BestAdapter, *figures: float) -> list[int]:
    """Return the steps that were the best when they were made."""
    kept = []
    for step, figure in enumerate(figures, 1):
        weights = {"a": nn.Parameter(torch.full((2,), float(step)))}
        if best.consider(step, {best.section.by: figure}, weights):
            kept.append(step)
    return kept


@pytest.mark.parametrize(
    ("section", "figures", "kept"),
    [
        ({"by": "validation_loss"}, (3, 2, 2.5, 1, 4), [1, 2, 4]),
        ({"by": "efficacy_strength"}, (0.1, 0.3, 0.2, 0.4), [1, 2, 4]),
        ({"by": "efficacy_leakage"}, (0.5, 0.6, 0.4), [1, 3]),
        ({"by": "efficacy_leakage", "mode": "max"}, (0.5, 0.6, 0.4), [1, 2]),
        ({"by": "measured_share", "every": 1, "label": "red"}, (1.0, 0.5, 0.5), [1, 2]),
        ({"by": "measured_mean", "every": 1, "mode": "max"}, (1, 1, 1), [1]),
        ({"by": "validation_loss"}, (math.nan, 2, math.nan, math.inf, 1), [2, 5]),
    ],
)
def test_the_best_is_kept_and_of_equals_the_earlier(
    section: dict[str, Any], figures: tuple[float, ...], kept: list[int]
) -> None:
    best = best_by(**section)
    assert considered(best, *figures) == kept
    assert best.step == kept[-1]
    assert best.tensors["a"].tolist() == [kept[-1]] * 2
    assert best.num_untold == sum(not math.isfinite(figure) for figure in figures)


def test_without_a_figure_the_last_step_is_the_result() -> None:
    weights = {"a": nn.Parameter(torch.zeros(2))}
    never: Any = None
    last = RunResult(9, never, remark="It ended.")
    nothing = best_by()
    assert considered(nothing, math.nan, math.nan) == []
    result = nothing.result(last, weights)
    assert (result.step, result.metadata) == (9, {})
    assert "could not be told" in str(result.remark)
    assert str(result.remark).startswith("It ended.")

    best = best_by()
    considered(best, 2, 1, 3)
    result = best.result(last, weights)
    assert result.step == 2
    assert result.metadata["loba.best.figure"] == "1"
    with result.weights():
        assert weights["a"].tolist() == [2, 2]
    assert weights["a"].tolist() == [0, 0]
    kept_besides = best_by(use="last")
    considered(kept_besides, 2, 1, 3)
    assert kept_besides.result(last, weights) is last


def test_an_adapter_that_no_file_can_hold_is_not_the_best() -> None:
    best = best_by()
    files: Any = best.files
    files.is_empty = True
    assert considered(best, 1) == []
    files.is_empty = False
    assert considered(best, 2) == [1]


def test_a_state_comes_back_and_what_later_steps_left_goes() -> None:
    best, other = best_by(), best_by()
    considered(best, 2, 1, 3)
    weights = {"a": nn.Parameter(torch.zeros(2))}
    other.load(json.loads(json.dumps(best.state())), best.tensors, weights)
    assert (other.step, other.figure) == (2, 1)
    assert weights["a"].tolist() == [0, 0]
    files: Any = other.files
    assert files.written == [2]
    other.load(best_by().state(), {}, weights)
    assert (other.step, files.written) == (None, [])


def grey(*levels: float) -> np.ndarray:
    """Return one sample of plain images."""
    return np.stack([np.full((8, 8, 3), level) for level in levels])[None]


def figure(
    by: str, images: np.ndarray, scales: tuple[float, ...], measure: str, **more: Any
) -> float:
    label = more.pop("label", None)
    choice = Choice(name=measure, **more)
    context = MeasureContext(scales.index(0))
    return figure_of(by, images, scales, choice, label, SHIPPED, context)


def test_figures_of_drawn_images_say_what_they_are_called() -> None:
    scales = (-1.0, 0.0, 1.0)
    images = np.concatenate([grey(0.2, 0.4, 0.7), grey(0.1, 0.2, 0.3)])
    measure = "mean_brightness"
    assert figure("measured_mean", images, scales, measure) == pytest.approx(0.5, abs=0.02)
    assert figure("measured_effect", images, scales, measure) == pytest.approx(0.35, abs=0.02)
    assert figure("measured_rho", images, scales, measure) == pytest.approx(1)
    assert figure("measured_rho", images[:, ::-1], scales, measure) == pytest.approx(-1)


def test_a_measure_that_cannot_tell_most_images_gives_no_mean() -> None:
    scales = (0.0, 1.0)
    blank = np.concatenate([grey(0.5, 0.5)] * 3)
    assert math.isnan(figure("measured_mean", blank, scales, "shape_area"))
    assert figure("measured_share", blank, scales, "shape_color", label="red") == 0


def slider(model: Path, best: dict[str, Any], **sections: Any) -> Recipe:
    concept = {"target": "a dot", "positive": "a large dot", "negative": "a small dot"}
    held = {"target": "a line", "positive": "a large line", "negative": "a small line"}
    return parse_recipe(
        {
            "version": 1,
            "name": "test",
            "base_model": {"id": str(model), "device": "cpu"},
            "adapter": {"layers": ["cross_attention"]},
            "method": {"name": "text_slider", "rollout_steps": 4, "concepts": [concept]},
            "optimizer": {"lr": 1e-2},
            "train": {"steps": STEPS, "batch_size": 2, "efficacy_every": 1},
            "validation": {"every": 1, "concepts": [held], "timesteps": 2},
            "save": {"every": 1, "best": best},
            "sample": {"prompts": ["a dot"], "scales": [0, 1], "steps": 1},
            "proof": {"enabled": False},
            **sections,
        },
        plugins=SHIPPED,
    )


def best_files(run_dir: RunDir) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(run_dir.best.path.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize("use", ["best", "last"])
def test_a_resumed_run_keeps_the_same_best_beside_its_checkpoints(
    use: str, small_sdxl_folder: Path, tmp_path: Path
) -> None:
    # On random weights it goes the wrong way: the last step is not the best.
    best = {"by": "efficacy_strength", "use": use}
    recipe = slider(small_sdxl_folder, best, save={"every": 2, "best": best})
    unbroken = run_here(recipe, new_run(recipe, tmp_path))
    broken = new_run(recipe, tmp_path)
    stop_after(3, recipe, broken)
    assert broken.best_adapter.is_there(), "a run that is stopped keeps it"
    # As if a later best had been written before it was killed.
    broken.best_adapter.path.write_bytes(b"of a later step")
    run_here(recipe, broken, resume=True)

    assert best_files(broken) == best_files(unbroken)
    assert adapter_hashes(broken) == adapter_hashes(unbroken)
    last = events(unbroken, "best")[-1]
    tensors, _, metadata = read_adapter(unbroken.best_adapter)
    assert metadata["loba.step"] == metadata["loba.best.step"] == str(last["step"])
    assert metadata["loba.best.by"] == "efficacy_strength"
    exported, _, told = read_adapter(unbroken.adapter)
    same = all(exported[name].equal(tensor) for name, tensor in tensors.items())
    assert last["step"] < STEPS - 2, "the checkpoint of that step must be gone for this test"
    assert same == (use == "best")
    assert told["loba.step"] == str(last["step"] if use == "best" else STEPS)
    assert len(checkpoint_names(unbroken.checkpoints)) == 2, "others are rotated as before"


@pytest.mark.slow
def test_a_drawn_figure_leaves_no_trace_in_the_weights(
    small_sdxl_folder: Path, tmp_path: Path
) -> None:
    best = {
        "by": "measured_mean", "mode": "max", "every": 2, "measure": {"name": "mean_brightness"},
        "prompts": ["a red dot"], "use": "last",
    }  # fmt: skip
    drawn = slider(small_sdxl_folder, best)
    plain = slider(small_sdxl_folder, {"by": "validation_loss", "use": "last"})
    one, other = (run_here(each, new_run(each, tmp_path)) for each in (drawn, plain))
    mine, theirs = read_adapter(one.adapter)[0], read_adapter(other.adapter)[0]
    assert all(mine[name].equal(theirs[name]) for name in theirs)
    assert one.metrics.path.read_text().count('"measured_mean"') == STEPS // 2
    assert events(one, "best")


@pytest.mark.parametrize(
    ("best", "problem"),
    [
        ({"by": "measured_mean", "every": 1}, "measured_mean needs mode"),
        ({"by": "measured_rho"}, "measured_rho needs every"),
        ({"by": "validation_loss", "every": 3}, "are for the figures measured_"),
        ({"by": "validation_loss", "label": "red"}, "are for the figures measured_"),
        ({"by": "measured_rho", "every": 1, "label": "red"}, "label is for measured_share"),
        ({"by": "measured_rho", "every": 1}, "measured_rho needs it, or proof.measure"),
        ({"by": "rho", "every": 1}, "expected one of"),
        (
            {"by": "measured_rho", "every": 1, "measure": {"name": "nothing"}},
            "save.best.measure.name",
        ),
    ],
)
def test_what_cannot_tell_the_best_is_refused(best: dict[str, Any], problem: str) -> None:
    with pytest.raises(ProblemsFound, match=problem):
        slider(Path("builtin:shapes-xl"), best)


def test_figures_that_nobody_logs_and_prompts_of_the_proof_are_refused() -> None:
    model = Path("builtin:shapes-xl")
    with pytest.raises(ProblemsFound, match="needs the section validation"):
        slider(model, {"by": "validation_loss"}, validation=None)
    with pytest.raises(ProblemsFound, match=r"needs train\.efficacy_every"):
        slider(model, {"by": "efficacy_strength"}, train={"steps": 2})
    measured = {"by": "measured_rho", "every": 1, "measure": {"name": "shape_area"}}
    with pytest.raises(ProblemsFound, match="is a prompt of the proof"):
        slider(model, measured, proof={"enabled": True})
    slider(model, measured, proof={"prompts": ["a red dot"]})
