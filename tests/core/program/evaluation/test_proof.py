import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.evaluation.measure import check_measures, measure, read_values
from loba_tui.core.program.evaluation.proof import _labelled, prove
from loba_tui.core.program.sampling.recipe_images import Grid, draw_grid, grid_png
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice, Preserved
from loba_tui.core.run.directory import RunDir
from loba_tui.models.shapes_world import Scene, draw

get_adapter = SHIPPED.load("adapters", "lora")

RECIPE = {
    "version": 1,
    "name": "tiny",
    "base_model": {"id": "builtin:shapes-xl"},
    "method": {
        "name": "text_slider",
        "concepts": [
            {
                "target": "a circle",
                "positive": "a large circle",
                "negative": "a small circle",
                "preserve": ["a square"],
            }
        ],
    },
    "sample": {"scales": [-1, 2], "steps": 2, "seeds": [4, 5]},
    "proof": {
        "prompts": ["a red circle", "a cross"],
        "measure": {"name": "mean_brightness"},
        "preserve": [{"name": "shape_color"}],
    },
}
PROMPTS = ["a circle", "a large circle", "a small circle", "a square", "a red circle", "a cross"]


@pytest.fixture(scope="module")
def model(tiny_sdxl_folder: Path):
    container = ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder))
    torch.manual_seed(1)
    config = get_adapter(container.adapter_targets())
    config.init_lora_weights = False
    container.denoiser.add_adapter(config)
    embeds = {prompt: container.encode_prompts([prompt]) for prompt in PROMPTS}
    return container, AdapterScale(container.denoiser), embeds


def recipe_with(**proof):
    return Recipe.model_validate(RECIPE | {"proof": RECIPE["proof"] | proof})


def prepared(path):
    path.mkdir(exist_ok=True)
    run_dir = RunDir(path)
    run_dir.prepare()
    return run_dir


def test_proof_writes_strip_report_and_page_and_always_draws_scale_zero(model, tmp_path):
    container, scale, embeds = model
    told = []
    report = prove(
        container,
        scale,
        recipe_with(),
        embeds,
        prepared(tmp_path),
        lambda *counts: told.append(counts),
        plugins=SHIPPED,
    )
    assert report.scales == (-1, 0, 2)
    assert told[-1] == (6, 6)
    content = json.loads((tmp_path / "adapter" / "report.json").read_text())
    assert content["scales"] == [-1, 0, 2]
    assert content["effect"]["measure"] == "mean_brightness"
    assert content["efficacy"]["leakage"] > 0
    assert content["details"]["prompts"] == ["a red circle", "a cross"]
    assert content["details"]["num_unet_rows_of_images"] == 6 * 2 * 2
    assert Image.open(tmp_path / "adapter" / "report.png").size == (1200, 800)
    assert Image.open(tmp_path / "samples" / "proof.png").height > 200


def test_same_adapter_gives_the_same_files(model, tmp_path):
    for folder in ("a", "b"):
        prove(*model[:2], recipe_with(), model[2], prepared(tmp_path / folder), plugins=SHIPPED)
    for name in ("adapter/report.json", "adapter/report.png", "samples/proof.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_without_measure_and_without_a_direction_there_is_still_a_report(model, tmp_path):
    container, scale, embeds = model
    method = {"name": "text_slider", "concepts": [{"target": "a circle"}]}
    recipe = Recipe.model_validate(
        RECIPE | {"method": method, "proof": {"prompts": ["a cross"], "seeds": [1]}}
    )
    report = prove(container, scale, recipe, embeds, prepared(tmp_path), plugins=SHIPPED)
    assert report.effect is None
    assert report.efficacy is None
    assert report.outcome == "unmeasured"
    assert report.images.change[0] > 0


def test_an_eraser_without_a_measure_is_judged_by_the_unet_alone(model, tmp_path):
    container, scale, embeds = model
    method = {"name": "esd", "concepts": [{"target": "a circle", "preserve": ["a square"]}]}
    recipe = Recipe.model_validate(
        RECIPE | {"method": method, "proof": {"prompts": ["a cross"], "seeds": [1]}}
    )
    report = prove(container, scale, recipe, embeds, prepared(tmp_path), plugins=SHIPPED)
    assert report.erasure is None
    assert report.outcome == report.efficacy.verdict
    assert "of the way from the concept's prediction" in report.verdict[-1]
    assert report.efficacy.leakage > 0


def test_negative_prompt_reaches_the_images(model):
    container, scale, embeds = model
    drawn = []
    for negative in ("", "a square"):
        sample = RECIPE["sample"] | {"negative_prompt": negative, "prompts": ["a cross"]}
        recipe = Recipe.model_validate(RECIPE | {"sample": sample})
        grid = Grid.of_samples(recipe)
        images = draw_grid(container, scale, recipe, embeds, grid, plugins=SHIPPED)
        drawn.append(grid_png(images, grid))
    assert drawn[0] != drawn[1]


def test_measure_carries_unit_and_limits_and_marks_what_it_cannot_read():
    scene = draw(Scene("circle", "red", "white", 8, 0.7, (16, 16)))
    samples = np.stack([scene, np.full_like(scene, 0.5)])[None]
    measured = measure(Choice(name="shape_brightness"), samples, plugins=SHIPPED)
    assert measured.limits == (0, 1)
    assert measured.values[0, 0] == pytest.approx(0.7, abs=0.03)
    assert np.isnan(measured.values[0, 1])
    assert read_values(Choice(name="shape_color"), samples, plugins=SHIPPED).tolist() == [
        ["red", None]
    ]


def test_labels_are_no_measure():
    samples = draw(Scene("circle", "red", "white", 8, 0.7, (16, 16)))[None, None]
    with pytest.raises(RecipeError, match="shape_color gives labels"):
        measure(Choice(name="shape_color"), samples, plugins=SHIPPED)


def test_option_of_a_measure_that_cannot_be_used_is_found_beforehand():
    choice = {"name": "color_axis", "low": [1, 0, 0], "high": [1, 0, 0]}
    with pytest.raises(RecipeError, match="same colour"):
        check_measures(recipe_with(measure=choice), plugins=SHIPPED)
    check_measures(recipe_with(), plugins=SHIPPED)


def test_one_label_may_be_preserved_twice_with_different_options(model, tmp_path):
    choices = [{"name": "color_axis"}, {"name": "color_axis", "low": [0, 0, 0]}]
    report = prove(
        *model[:2], recipe_with(preserve=choices), model[2], prepared(tmp_path), plugins=SHIPPED
    )
    assert len({kept.label for kept in report.preservation}) == 2


def test_a_proof_reads_with_models_and_says_which(model, tmp_path):
    from tiny_image_models import save_tiny_clip, save_tiny_dino

    container, scale, embeds = model
    torch.manual_seed(0)
    save_tiny_clip(tmp_path / "clip")
    save_tiny_dino(tmp_path / "dino")
    words = {"positive": "a large circle", "negative": "a small circle"}
    clip, dino = str(tmp_path / "clip"), str(tmp_path / "dino")
    score = {"name": "clip_score", "model": clip}
    recipe = recipe_with(
        measure={"name": "clip_direction", **words, "model": clip},
        preserve=[
            {**score, "text": "a circle"},
            {**score, "text": "a square"},
            {"name": "dino_similarity", "model": dino, "within": 2.0},
        ],
    )
    report = prove(container, scale, recipe, embeds, prepared(tmp_path / "run"), plugins=SHIPPED)
    assert report.details["image_models"] == [clip, dino]
    assert [kept.label for kept in report.preservation] == [
        "clip_score (text=a circle)",
        "clip_score (text=a square)",
        "dino_similarity",
    ]
    assert report.preservation[-1].share_unchanged == (1.0,) * 3
    assert report.effect.measure == "clip_direction"
    assert np.isfinite(report.effect.mean).all()


def test_one_measure_by_two_models_keeps_both():
    both = [Preserved(name="lpips", model=model) for model in ("a", "b")]
    assert list(_labelled(both)) == ["lpips (model=a)", "lpips (model=b)"]
    assert list(_labelled(both[:1])) == ["lpips"]
