"""Which configurations of a recipe are measured."""

from typing import Any

import pytest

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.benchmarking.alternatives import (
    configurations,
    measurable,
    shortened,
)
from loba_tui.core.recipe import shipped
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.recipe.schema import Recipe


def recipe_of(name: str, **values: Any) -> Recipe:
    changes = [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
    return load_recipe(shipped.folder() / f"{name}.yaml", changes, plugins=SHIPPED)


def test_what_is_worth_trying_changes_what_the_recipe_has() -> None:
    recipe = recipe_of(
        "slider_unet",
        train__batch_size=2,
        train__gradient_accumulation=4,
        base_model__gradient_checkpointing="true",
        method__trajectories="rolling",
    )
    names = [each.name for each in configurations(recipe, (), SHIPPED, "cuda")]
    assert names == [
        "as the recipe says",
        "base_model.gradient_checkpointing: false",
        "train.batch_size: 8, train.gradient_accumulation: 1",
        "method.trajectories: bank",
    ]


def test_what_takes_minutes_on_a_cpu_is_not_tried_there() -> None:
    recipe = recipe_of("slider_unet")
    tried = {
        device: [
            key for each in configurations(recipe, (), SHIPPED, device) for key in each.changes
        ]
        for device in ("cuda", "cpu")
    }
    assert tried["cuda"][:2] == ["train.compile", "train.exactness"]
    assert "train.compile" not in tried["cpu"]


def test_each_alternative_is_a_recipe_of_its_own() -> None:
    recipe = recipe_of("slider_unet")
    own, *others = configurations(recipe, (), SHIPPED, "cuda")
    assert own.recipe == recipe
    assert len({each.recipe.model_dump_json() for each in (own, *others)}) == 4


def test_wanted_alternatives_take_the_place_of_the_others() -> None:
    found = configurations(
        recipe_of("slider_unet"), [["train.batch_size=2", "optimizer.name=sgd"]], SHIPPED, "cpu"
    )
    assert [each.name for each in found[1:]] == ["train.batch_size: 2, optimizer.name: sgd"]
    assert found[1].recipe.train.batch_size == 2
    with pytest.raises(RecipeError, match="batch_sice"):
        configurations(recipe_of("slider_unet"), [["train.batch_sice=2"]], SHIPPED, "cpu")


def test_a_method_that_computes_has_no_steps_to_measure() -> None:
    with pytest.raises(RecipeError, match="no step to measure"):
        measurable(recipe_of("uce"), SHIPPED)


def test_text_encoders_are_not_made_of_random_numbers() -> None:
    measurable(recipe_of("slider"), SHIPPED)
    elsewhere = recipe_of("slider", base_model__id="stabilityai/stable-diffusion-xl-base-1.0")
    with pytest.raises(RecipeError, match="text encoders"):
        measurable(elsewhere, SHIPPED)


def test_a_bank_is_made_small_and_a_fresh_rollout_left_alone() -> None:
    bank = shortened(recipe_of("slider_unet", method__rollout_steps=50), SHIPPED).method.options
    assert bank["rollout_steps"] < 10
    assert bank["bank_samples"] == 16
    fresh = recipe_of("slider_unet", method__rollout_steps=50, method__trajectories="restart")
    assert shortened(fresh, SHIPPED) == fresh


@pytest.mark.parametrize("name", ["lora_style", "lora_masked", "image_slider", "sdxl/lora_style"])
def test_images_of_a_recipe_are_replaced_by_those_of_the_package(name: str) -> None:
    data = measurable(recipe_of(name), SHIPPED).data
    assert data is not None
    assert all(source.path.startswith("builtin:") for source in data.sources)
