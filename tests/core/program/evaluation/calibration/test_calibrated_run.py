"""Whole runs that are calibrated: files, reports, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from program_runs import adapter_hashes, events, new_run, run_here, shape_slider
from safetensors import safe_open
from safetensors.torch import load_file

from loba_tui.client.adapters.show import show_adapter
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.closed_form.solved_text import BIAS_NAME
from loba_tui.core.program.evaluation.calibration.looks import (
    calibration_grid,
    calibration_prompts,
    effect_of,
    expected_images,
)
from loba_tui.core.recipe.load import check_text, dump_recipe, parse_recipe
from loba_tui.core.recipe.schema import Recipe

PLACE = "a {color} {shape} on a gray background"
PREFIX = "loba.calibration."


def recipe_with(calibrate: dict[str, Any] | None, **sections: Any) -> Recipe:
    concept = {
        "target": PLACE,
        "positive": PLACE.replace("{color}", "bright {color}"),
        "negative": PLACE.replace("{color}", "dark {color}"),
        "vary": {"color": ["red", "green", "blue"], "shape": ["circle", "square"]},
    }
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl", "device": "cpu"},
            "method": {"name": "text_space_slider", "strength": 0.25, "concepts": [concept]},
            "sample": {"prompts": ["a pink circle"], "scales": [-1, 0, 1], "steps": 6},
            "proof": {
                "prompts": ["a cyan circle on a gray background"],
                "measure": {"name": "mean_brightness"},
                "calibrate": calibrate,
            },
            **sections,
        },
        plugins=SHIPPED,
    )


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


@pytest.mark.slow
def test_a_calibrated_run_has_the_effect_in_its_files_and_says_so(tmp_path: Path) -> None:
    plain, asked = recipe_with(None), {"difference": 0.03, "samples": 6}
    before = run_here(plain, new_run(plain, tmp_path))
    recipe = recipe_with(asked)
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    report = json.loads(run_dir.report.path.read_text())
    found = report["calibration"]
    assert found["outcome"] == "reached"
    mean = (found["above"] - found["below"]) / 2
    assert mean == pytest.approx(0.03, rel=0.1)
    assert found["range"][0] <= -1 < 1 <= found["range"][1]
    assert found["num_unet_rows"] == found["num_images"] * 6 * 2
    assert found["prompts"] == [c.target for c in recipe.method.expanded_concepts]
    assert not {*found["seeds"]} & {*recipe.proof.seeds, *recipe.sample.seeds}
    (event,) = events(run_dir, "calibrated")
    assert set(event["sentences"][:1]) <= set(report["verdict"])

    # All files are the former ones times the factor.
    factor = found["factor"]
    assert factor != pytest.approx(1.0, abs=0.01)
    for name in ("adapter.safetensors", "adapter.kohya.safetensors", BIAS_NAME):
        old = load_file(before.adapter_dir.path / name)
        for key, tensor in load_file(run_dir.adapter_dir.path / name).items():
            is_moved = key.endswith((".up.weight", ".lora_up.weight", ".diff_b"))
            wanted = old[key] * (factor if is_moved else 1.0)
            assert float((tensor - wanted).abs().max()) <= 1e-6 * float(wanted.abs().max())
        metadata = metadata_of(run_dir.adapter_dir.path / name)
        assert metadata[f"{PREFIX}asked"] == "difference 0.03"
        assert float(metadata[f"{PREFIX}factor"]) == pytest.approx(factor, rel=1e-5)
        assert PREFIX + "on_proof" in metadata
        former = metadata_of(before.adapter_dir.path / name)
        assert not any(key.startswith(PREFIX) for key in former)

    # The proof is of the calibrated adapter: scale 1 is what `factor` was.
    proof = dict(zip(report["scales"], report["effect"]["mean"], strict=True))
    assert found["on_proof"][1] == pytest.approx(proof[1.0] - proof[0.0])
    lines = "\n".join(show_adapter(run_dir.adapter.path).lines())
    assert f"{PREFIX}range = " in lines
    assert f"{PREFIX}asked = difference 0.03" in lines

    # What is finished again begins with what was computed, and gives the same files.
    hashes = adapter_hashes(run_dir)
    run_here(recipe, run_dir, resume=True)
    assert adapter_hashes(run_dir) == hashes


@pytest.mark.slow
def test_a_trained_run_that_is_finished_again_is_not_baked_twice(tmp_path: Path) -> None:
    recipe = shape_slider(
        1,
        train={"steps": 2, "batch_size": 1},
        optimizer={"lr": 0.01},
        sample={"scales": [-1, 0, 1], "steps": 2},
        proof={
            "prompts": ["a circle"],
            "measure": {"name": "mean_brightness"},
            "calibrate": {"at": 2, "saturation": True, "samples": 2},
        },
    )
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    (event,) = events(run_dir, "calibrated")
    assert event["asked"] == "saturation"
    hashes = adapter_hashes(run_dir)
    run_here(recipe, run_dir, resume=True)
    assert adapter_hashes(run_dir) == hashes


@pytest.mark.slow
def test_an_effect_out_of_reach_is_said_and_the_run_ends_well(tmp_path: Path) -> None:
    recipe = recipe_with({"difference": 0.9, "samples": 2}, train={"seed": 1})
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    report = json.loads(run_dir.report.path.read_text())
    assert report["calibration"]["outcome"] in ("short", "left")
    told = " ".join(report["verdict"])
    assert "not reached" in told or "Not calibrated" in told


def test_prompts_are_the_trained_ones_and_none_of_the_proofs() -> None:
    recipe = recipe_with({"ratio": 1.1})
    targets = [concept.target for concept in recipe.method.expanded_concepts]
    assert list(calibration_prompts(recipe)) == targets
    held = recipe.model_copy(
        update={"proof": recipe.proof.model_copy(update={"prompts": tuple(targets[:2])})}
    )
    assert list(calibration_prompts(held)) == targets[2:]
    given = recipe_with({"ratio": 1.1, "prompts": ["a cross"]})
    assert calibration_prompts(given) == ("a cross",)
    content = recipe.model_dump()
    many = Recipe.model_validate({**content, "method": content["method"] | {"concepts": ()}})
    assert len(calibration_prompts(many, [f"caption {n}" for n in range(40)])) == 12
    with pytest.raises(RecipeError, match=r"proof\.calibrate\.prompts"):
        calibration_prompts(many, [""])


def test_fewer_prompts_have_more_seeds() -> None:
    recipe = recipe_with({"ratio": 1.1, "samples": 12})
    grid = calibration_grid(recipe, calibration_prompts(recipe))
    assert len(grid.seeds) == 2
    assert len(calibration_grid(recipe, ["a circle"]).seeds) == 12
    taken = recipe.proof.model_copy(update={"seeds": (7000, 7002)})
    other = recipe.model_copy(update={"proof": taken})
    assert calibration_grid(other, ["a", "b", "c", "d"]).seeds == (7001, 7003, 7004)
    assert expected_images(recipe) > 12
    assert expected_images(recipe_with(None)) == 0


def test_effects_are_of_samples_that_are_there_both_times() -> None:
    before, after = np.array([1.0, 3.0, np.nan, 5.0]), np.array([2.0, 6.0, 9.0, np.nan])
    assert effect_of(before, after, is_ratio=True) == pytest.approx(np.log(2))
    assert effect_of(before, after, is_ratio=False) == pytest.approx(2.0)
    assert np.isnan(effect_of(before[2:3], after[2:3], is_ratio=False))
    assert np.isnan(effect_of(-before, after, is_ratio=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"calibrate": {"at": 1}}, "one of ratio, difference and saturation"),
        ({"calibrate": {"ratio": 1.5, "saturation": True}}, "one of ratio, difference"),
        ({"calibrate": {"ratio": 1}}, "asks for no effect"),
        ({"calibrate": {"difference": 0}}, "asks for no effect"),
        ({"calibrate": {"ratio": -2}}, "ratio"),
        ({"calibrate": {"ratio": 2}, "measure": None}, "calibrate needs measure"),
        ({"calibrate": {"ratio": 2}, "enabled": False}, "calibrate needs enabled"),
        ({"calibrate": {"ratio": 2, "prompts": ["a cross"]}, "prompts": ["a cross"]}, "a cross"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(changed: dict[str, Any], message: str) -> None:
    problems = problems_of(proof=changed)
    assert any(message in problem for problem in problems), problems


def test_a_rotation_and_an_eraser_are_refused_by_name() -> None:
    slider = {
        "name": "text_slider",
        "concepts": [{"target": "a", "positive": "b", "negative": "c"}],
    }
    proof = {"calibrate": {"ratio": 2}}
    (problem,) = problems_of(method=slider, adapter={"name": "oft"}, proof=proof)
    assert "oft is not linear in its strength" in problem
    assert not problems_of(method=slider, adapter={"name": "dora"}, proof=proof)
    leco = {"name": "leco", "concepts": [{"target": "a", "positive": "b"}]}
    (problem,) = problems_of(method=leco, proof=proof)
    assert "leco erases" in problem


def problems_of(**sections: Any) -> list[str]:
    """Return what is wrong with a recipe whose sections are changed."""
    plain = json.loads(recipe_with({"ratio": 2}).model_dump_json())
    plain["proof"] |= sections.pop("proof", {})
    content = json.dumps({**plain, **sections})
    return [str(problem) for problem in check_text(content, "r.yaml", plugins=SHIPPED)]


def test_a_recipe_comes_back_from_its_text() -> None:
    recipe = recipe_with({"at": 3, "saturation": True})
    assert "saturation: true" in dump_recipe(recipe)
