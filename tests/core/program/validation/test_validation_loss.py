"""The loss on what is held out: the same for the same weights, and without a trace in training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from program_runs import events, new_run, run_here, stop_after

from loba_tui.core.errors import DataError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import read_adapter
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.validation.record import Evaluation, Validation
from loba_tui.core.recipe.data_paths import portable
from loba_tui.core.recipe.load import dump_recipe, load_recipe, parse_recipe
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir

STEPS = 4


def draw_images(folder: Path, names: str, *, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for name in names:
        pixels = rng.integers(0, 256, size=(40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"red, number, {name}")
    return folder


def finetuning(model: Path, images: Path, validation: dict[str, Any] | None, **more: Any) -> Recipe:
    return parse_recipe(
        {
            "version": 1,
            "name": "test",
            "base_model": {"id": str(model), "device": "cpu"},
            "adapter": {"layers": ["cross_attention"]},
            "method": {"name": "lora_finetune"},
            "optimizer": {"lr": 1e-2},
            "data": {
                "sources": [{"path": str(images)}],
                "captions": {"shuffle": True, "dropout": 0.2, "variants": 2},
                "crop": "random",
                "cache": "none",
                "flip": True,
            },
            "noise": [{"name": "offset"}],
            "loss": {"weighting": {"name": "min_snr"}},
            "train": {"steps": STEPS, "batch_size": 2},
            "save": {"every": 2},
            "sample": {"prompts": ["red"], "scales": [0, 1], "steps": 1},
            "proof": {"enabled": False},
            **({} if validation is None else {"validation": validation}),
            **more,
        },
        plugins=SHIPPED,
    )


def slider(model: Path, validation: dict[str, Any] | None, **method: Any) -> Recipe:
    concept = {"target": "a dot", "positive": "a large dot", "negative": "a small dot"}
    return parse_recipe(
        {
            "version": 1,
            "name": "test",
            "base_model": {"id": str(model), "device": "cpu"},
            "adapter": {"layers": ["cross_attention"]},
            "method": {
                "name": "text_slider",
                "rollout_steps": 4,
                "concepts": [{**concept, "preserve": ["a"]}],
                **method,
            },
            "optimizer": {"lr": 1e-2},
            "train": {"steps": STEPS, "batch_size": 2},
            "save": {"every": 2},
            "sample": {"scales": [0, 1], "steps": 1},
            "proof": {"enabled": False},
            **({} if validation is None else {"validation": validation}),
        },
        plugins=SHIPPED,
    )


HELD_OUT_CONCEPT = {
    "target": "a line", "positive": "a large line", "negative": "a small line",
}  # fmt: skip


def weights(run_dir: RunDir) -> dict[str, torch.Tensor]:
    tensors, _, _ = read_adapter(run_dir.adapter)
    return dict(tensors)


def are_equal(one: RunDir, other: RunDir) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(mine[key].equal(theirs[key]) for key in mine)


def told(run_dir: RunDir) -> list[tuple[int, float, float | None]]:
    found = {e["step"]: (e["step"], e["loss"], e["training_loss"]) for e in validated(run_dir)}
    return list(found.values())


def validated(run_dir: RunDir) -> list[dict[str, Any]]:
    return events(run_dir, "validated")


@pytest.mark.slow
def test_images_are_evaluated_without_a_trace_in_the_weights(
    small_sdxl_folder: Path, tmp_path: Path
) -> None:
    images = draw_images(tmp_path / "images", "abcde")
    held = draw_images(tmp_path / "held", "xy", seed=1)
    validation = {"every": 2, "sources": [{"path": str(held)}], "timesteps": 3}

    plain = finetuning(small_sdxl_folder, images, None)
    checked = finetuning(small_sdxl_folder, images, validation)
    without = run_here(plain, new_run(plain, tmp_path))
    run_dir = run_here(checked, new_run(checked, tmp_path))

    assert are_equal(without, run_dir)
    found = validated(run_dir)
    assert [event["step"] for event in found] == [2, 4]
    assert found[0]["loss"] != found[1]["loss"]
    assert found[0]["gap"] == found[0]["loss"] - found[0]["training_loss"]
    (loss,) = [e["held_out"] for e in events(run_dir, "data")]
    assert loss == 2
    metrics = run_dir.metrics.path.read_text()
    assert metrics.count('"validation_loss"') == metrics.count('"validation_training_loss"') == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "concepts", "eraser"])
def test_a_resumed_run_evaluates_what_an_unbroken_one_does(
    kind: str, small_sdxl_folder: Path, tmp_path: Path
) -> None:
    images = draw_images(tmp_path / "images", "abcdefgh")
    if kind == "images":
        validation: dict[str, Any] = {"every": 1, "share": 0.3, "timesteps": 2}
        recipe = finetuning(small_sdxl_folder, images, validation)
    elif kind == "concepts":
        recipe = slider(
            small_sdxl_folder, {"every": 1, "concepts": [HELD_OUT_CONCEPT], "timesteps": 4}
        )
    else:
        concept = {"target": "red", "neutral": "grey"}
        held = {"target": "dark red", "neutral": "dark grey"}
        recipe = slider(
            small_sdxl_folder, {"every": 1, "concepts": [held]}, name="leco", concepts=[concept]
        )
    unbroken = run_here(recipe, new_run(recipe, tmp_path))
    broken = new_run(recipe, tmp_path)
    stop_after(3, recipe, broken)
    run_here(recipe, broken, resume=True)

    assert told(broken) == told(unbroken)
    assert [step for step, *_ in told(broken)] == [1, 2, 3, 4]
    assert are_equal(broken, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("trajectories", ["rolling", "bank"])
def test_concepts_are_evaluated_without_a_trace_in_the_weights(
    trajectories: str, small_sdxl_folder: Path, tmp_path: Path
) -> None:
    validation = {"every": 2, "concepts": [HELD_OUT_CONCEPT], "timesteps": 4}
    plain = slider(small_sdxl_folder, None, trajectories=trajectories)
    checked = slider(small_sdxl_folder, validation, trajectories=trajectories)
    without = run_here(plain, new_run(plain, tmp_path))
    run_dir = run_here(checked, new_run(checked, tmp_path))
    assert are_equal(without, run_dir)
    assert len({loss for _, loss, _ in told(run_dir)}) == 2


@pytest.mark.slow
def test_the_same_weights_have_the_same_loss(small_sdxl_folder: Path, tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images", "abcdef")
    validation = {"every": 1, "share": 0.3}
    # At this rate no bit of the adapter's weights changes: B begins at 0, and stays there.
    still = {"optimizer": {"name": "sgd", "lr": 1e-40}}
    recipe = finetuning(small_sdxl_folder, images, validation, **still)
    found = told(run_here(recipe, new_run(recipe, tmp_path)))
    assert len(found) == STEPS
    assert len({(loss, training) for _, loss, training in found}) == 1


@pytest.mark.slow
def test_a_share_that_is_held_out_is_not_trained_on(
    small_sdxl_folder: Path, tmp_path: Path
) -> None:
    images = draw_images(tmp_path / "images", "abcdefgh")
    recipe = finetuning(small_sdxl_folder, images, {"every": 2, "share": 0.3})
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    (data,) = events(run_dir, "data")
    assert data["images"] + data["held_out"] == 8
    assert data["held_out"] >= 1


def test_images_that_are_trained_on_are_refused_for_validation(
    small_sdxl_folder: Path, tmp_path: Path
) -> None:
    images = draw_images(tmp_path / "images", "abc")
    held = draw_images(tmp_path / "held", "x", seed=1)
    # Another file of the same pixels.
    Image.open(images / "b.png").save(held / "copy.png", compress_level=1)
    (held / "copy.txt").write_text("blue")
    assert (images / "b.png").read_bytes() != (held / "copy.png").read_bytes()
    recipe = finetuning(small_sdxl_folder, images, {"sources": [{"path": str(held)}]})
    with pytest.raises(DataError, match="is held out, and trained on as") as raised:
        run_here(recipe, new_run(recipe, tmp_path))
    assert "copy.png" in str(raised.value)
    assert "x.png" not in str(raised.value)


@pytest.mark.parametrize(
    ("validation", "problem"),
    [
        ({}, "needs one of share and sources"),
        ({"share": 0.1, "sources": [{"path": "x"}]}, "needs one of share and sources"),
        ({"concepts": [HELD_OUT_CONCEPT]}, "trains on images"),
        ({"sources": [{"path": "x", "scale": 1}]}, "trains one strength"),
        ({"sources": [{"path": "x", "prior": True}]}, "for training alone"),
        ({"share": 1.0}, "less than 1"),
    ],
)
def test_what_cannot_be_held_out_of_images_is_refused(
    validation: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ProblemsFound, match=problem):
        finetuning(Path("builtin:shapes-xl"), tmp_path, validation)


def test_what_cannot_be_held_out_of_concepts_is_refused() -> None:
    model = Path("builtin:shapes-xl")
    trained = {"target": "a dot", "positive": "a large dot", "negative": "a small dot"}
    with pytest.raises(ProblemsFound, match="is a concept that is trained"):
        slider(model, {"concepts": [trained]})
    with pytest.raises(ProblemsFound, match="trains on prompts alone"):
        slider(model, {"share": 0.1})
    with pytest.raises(ProblemsFound, match="negative: missing"):
        slider(model, {"concepts": [{"target": "a line", "positive": "a large line"}]})
    with pytest.raises(ProblemsFound, match="computes its adapter without training"):
        parse_recipe(
            {
                "version": 1,
                "base_model": {"id": "builtin:shapes-xl"},
                "method": {"name": "uce", "concepts": [{"target": "red"}]},
                "validation": {"concepts": [{"target": "blue"}]},
            },
            plugins=SHIPPED,
        )


def test_paths_of_held_out_images_are_treated_as_those_of_training(tmp_path: Path) -> None:
    recipe = finetuning(tmp_path, Path("train"), {"sources": [{"path": "held", "masks": "m"}]})
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    loaded = load_recipe(tmp_path / "recipe.yaml", plugins=SHIPPED)
    assert loaded.validation is not None
    (source,) = loaded.validation.sources
    assert (source.path, source.masks) == (str(tmp_path / "held"), str(tmp_path / "m"))
    carried = portable(loaded).validation
    assert carried is not None
    assert (carried.sources[0].path, carried.sources[0].masks) == ("held", "m")


def record_of(*losses: float, training: float | None = 1.0) -> Validation:
    never: Any = None
    found = Validation(never, None, 10, Processes())
    found.evaluations = [
        Evaluation(10 * (n + 1), loss, None if training is None else training - 0.01 * n)
        for n, loss in enumerate(losses)
    ]
    return found


def test_overfitting_is_told_once_the_loss_has_risen_for_several_evaluations() -> None:
    assert record_of(3, 2, 2.1, 2.2).overfits() is None
    sentence = record_of(3, 2, 2.1, 2.2, 2.3).overfits()
    assert sentence is not None
    assert "from 2 after step 20 to 2.3 after step 50" in sentence
    assert "the adapter overfits" in sentence
    assert "It was least, 2, after step 20." in sentence
    assert record_of(3, 2, 2.1, 2.2, 2.3, 2.4).overfits() is None, "it is told already"
    assert record_of(3, 2, 2.1, 2.2, 2.3, 2.2, 2.3, 2.4, 2.5).overfits() is not None
    assert record_of(3, 2, 2.1, 2.2, math.nan).overfits() is None
    assert "overfits" in str(record_of(1, 2, 3, 4).overfits())
    rising = record_of(1, 2, 3, 4)
    rising.evaluations = [Evaluation(e.step, e.loss, e.loss) for e in rising.evaluations]
    assert "training makes it worse" in str(rising.overfits())
