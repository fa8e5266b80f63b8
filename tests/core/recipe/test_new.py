from __future__ import annotations

import pytest

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import describe, names
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.recipe.new import new_recipe


def test_a_new_recipe_validates_and_shows_every_option_of_its_method() -> None:
    text = new_recipe("mine")
    assert parse_text(text, "mine").name == "mine"
    assert "yaml-language-server: $schema=" in text
    for option in describe("methods", "text_slider").options:
        assert f"  # {option}: " in text


def test_a_new_recipe_still_validates_with_its_options_uncommented() -> None:
    lines = new_recipe("mine").splitlines()
    options = describe("methods", "text_slider").options
    wanted = tuple(f"  # {option}: " for option in options)
    text = "\n".join("  " + x[4:] if x.startswith(wanted) else x for x in lines)
    assert parse_text(text, "mine").method.options.keys() == options.keys()


@pytest.mark.parametrize("name", ["a b", "", "../x", "x" * 65, "a: b", "a\nb: c"])
def test_a_name_that_a_run_cannot_have_is_an_error(name: str) -> None:
    with pytest.raises(RecipeError):
        new_recipe(name)


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(RecipeError, match="there is no method called"):
        new_recipe("mine", method="text_slidr")


@pytest.mark.parametrize("method", names("methods"))
def test_every_method_has_a_new_recipe_or_says_why_not(method: str) -> None:
    try:
        text = new_recipe("mine", method=method)
    except RecipeError as error:
        told = error
    else:
        parse_text(text, "mine")
        return
    assert told.hint
