"""The text-encoder slider: text encoders learn a direction, and the denoiser is never called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program_runs import adapter_hashes, events, new_run, run_here, stop_after

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir

CONCEPT = {
    "target": "a {color} shape",
    "positive": "a large {color} shape",
    "negative": "a small {color} shape",
    "preserve": ["a gray background"],
    "vary": {"color": ["red", "green", "blue"]},
}


def recipe_of(method: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl", "device": "cpu"},
            "method": {"name": "text_encoder_slider", "concepts": [CONCEPT], **(method or {})},
            "optimizer": {"lr": 2e-3},
            "train": {"steps": 12, "batch_size": 4},
            "sample": {"prompts": ["a shape"], "scales": [-1, 0, 1], "steps": 2},
            "proof": {"enabled": False},
            **sections,
        },
        plugins=SHIPPED,
    )


def metrics(run_dir: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run_dir.metrics.path.read_text().splitlines()]


@pytest.mark.slow
def test_it_learns_without_a_row_of_the_denoiser(tmp_path: Path) -> None:
    recipe = recipe_of(proof={"prompts": ["a circle"]}, train={"steps": 40, "batch_size": 4})
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    figures = metrics(run_dir)
    assert figures[-1]["text_loss"] < 0.5 * figures[0]["text_loss"]
    assert figures[-1]["forwards"] == 0
    components = {layer.component for layer in read_adapter_file(run_dir.adapter).layers}
    assert components == {"text_encoder", "text_encoder_2"}
    (measured,) = events(run_dir, "measured")
    assert any("alignment" in line for line in measured["verdict"])


@pytest.mark.slow
def test_a_warm_start_begins_near_the_direction(tmp_path: Path) -> None:
    cold, warm = (
        metrics(run_here(recipe, new_run(recipe, tmp_path)))[0]["text_error"]
        for recipe in (
            recipe_of(train={"steps": 1}),
            recipe_of({"warm_start": "text_space"}, train={"steps": 1}),
        )
    )
    assert cold == pytest.approx(1, rel=0.05)
    assert warm < 0.3


@pytest.mark.slow
def test_it_resumes_bit_by_bit(tmp_path: Path) -> None:
    recipe = recipe_of(train={"steps": 4, "batch_size": 2}, save={"every": 2})
    whole = run_here(recipe, new_run(recipe, tmp_path))
    broken = new_run(recipe, tmp_path)
    stop_after(2, recipe, broken)
    run_here(recipe, broken, resume=True)
    assert adapter_hashes(broken) == adapter_hashes(whole)


@pytest.mark.parametrize(
    ("adapter", "key"),
    [
        ({"layers": ["cross_attention"]}, "adapter.layers"),
        ({"name": "locon"}, "adapter.name"),
        ({"init_from": "a.safetensors"}, "adapter.init_from"),
    ],
)
def test_what_is_of_the_denoiser_is_said_to_be_unused(adapter: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeError, match=f"{key}: text_encoder_slider trains a LoRA"):
        recipe_of(adapter=adapter)
    assert recipe_of(adapter={"rank": 8, "text_encoders": {"lr": 1e-3}}).adapter.rank == 8
