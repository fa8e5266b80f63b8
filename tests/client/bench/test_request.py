"""Which recipe a benchmark is of, and which alternatives."""

from pathlib import Path

import pytest

from loba_tui.client.bench.request import families, parse_tries, recipe_of, writable
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe import shipped
from loba_tui.core.recipe.load import load_recipe


def test_every_family_has_a_recipe() -> None:
    assert {"sdxl", "sd15", "flux", "z-image"} <= set(families())
    for family in families():
        assert recipe_of(None, family).is_file()


def test_without_a_name_it_is_the_slider_of_sdxl() -> None:
    assert recipe_of(None, None) == shipped.folder() / "sdxl" / "slider.yaml"
    assert recipe_of(Path("mine.yaml"), None) == Path("mine.yaml")


def test_an_unknown_family_and_a_second_recipe_are_refused() -> None:
    with pytest.raises(RecipeError, match="is not a family") as caught:
        recipe_of(None, "sdx")
    assert "sdxl" in caught.value.hint
    with pytest.raises(RecipeError, match="exclude each other"):
        recipe_of(Path("mine.yaml"), "sdxl")


def test_alternatives_are_checked_before_anything_is_started() -> None:
    recipe = load_recipe(shipped.folder() / "slider_unet.yaml", plugins=SHIPPED)
    wanted = ["train.batch_size=4,optimizer.name=sgd", "method.scales=[-2,2]"]
    assert parse_tries(wanted, recipe, SHIPPED) == [
        ("train.batch_size=4", "optimizer.name=sgd"),
        ("method.scales=[-2,2]",),
    ]
    with pytest.raises(RecipeError, match="batch_sice"):
        parse_tries(["train.batch_sice=4"], recipe, SHIPPED)


def test_another_batch_size_takes_the_place_of_one_that_is_chosen_by_itself() -> None:
    recipe = load_recipe(shipped.folder() / "sdxl" / "slider.yaml", plugins=SHIPPED)
    assert recipe.train.batch_size == "auto"
    (parts,) = parse_tries(["train.batch_size=2"], recipe, SHIPPED)
    assert parts == ("train.effective_batch_size=null", "train.batch_size=2")


def test_a_file_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    assert writable(tmp_path / "new.json") == tmp_path / "new.json"
    for wrong in (tmp_path, tmp_path / "missing" / "new.json"):
        with pytest.raises(RecipeError, match="--json"):
            writable(wrong)
