from __future__ import annotations

import pytest

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.recipe.new import new_recipe


def test_a_new_recipe_validates_and_shows_every_option_of_its_method() -> None:
    text = new_recipe("mine", plugins=SHIPPED)
    assert parse_text(text, "mine", plugins=SHIPPED).name == "mine"
    assert "yaml-language-server: $schema=" in text
    for option in SHIPPED.describe("methods", "text_slider").options:
        assert f"  # {option}: " in text


def test_a_new_recipe_still_validates_with_its_options_uncommented() -> None:
    lines = new_recipe("mine", plugins=SHIPPED).splitlines()
    options = SHIPPED.describe("methods", "text_slider").options
    wanted = tuple(f"  # {option}: " for option in options)
    text = "\n".join("  " + x[4:] if x.startswith(wanted) else x for x in lines)
    assert parse_text(text, "mine", plugins=SHIPPED).method.options.keys() == options.keys()


@pytest.mark.parametrize("name", ["a b", "", "../x", "x" * 65, "a: b", "a\nb: c"])
def test_a_name_that_a_run_cannot_have_is_an_error(name: str) -> None:
    with pytest.raises(RecipeError):
        new_recipe(name, plugins=SHIPPED)


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(RecipeError, match="there is no method called"):
        new_recipe("mine", method="text_slidr", plugins=SHIPPED)


@pytest.mark.parametrize("method", SHIPPED.names("methods"))
def test_every_method_has_a_new_recipe_or_says_why_not(method: str) -> None:
    try:
        text = new_recipe("mine", method=method, plugins=SHIPPED)
    except RecipeError as error:
        told = error
    else:
        parse_text(text, "mine", plugins=SHIPPED)
        return
    assert told.hint
