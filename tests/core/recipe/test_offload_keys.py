"""`base_model.offload: blocks` beside what it cannot go with."""

from __future__ import annotations

from typing import Any

import pytest

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import dump_recipe, parse_recipe, parse_text
from loba_tui.core.recipe.problems import ProblemsFound

CONCEPT = {"target": "a circle", "positive": "a large circle", "negative": "a small circle"}


def recipe_with(base: dict[str, Any], **sections: Any) -> dict[str, Any]:
    method = {"name": "text_slider", "concepts": [CONCEPT]}
    model = {"id": "builtin:shapes-xl", **base}
    return {"version": 1, "base_model": model, "method": method, **sections}


@pytest.mark.parametrize(
    ("base", "sections", "said"),
    [
        ({"blocks_on_host": 2}, {}, "base_model.blocks_on_host: it says how many blocks wait"),
        (
            {"offload": "model", "blocks_on_host": 2},
            {},
            "base_model.blocks_on_host: it says how many blocks wait",
        ),
        (
            {"offload": "blocks"},
            {"train": {"compile": "graphs"}},
            "train.compile: a compiled block has its weights where they were",
        ),
        (
            {"offload": "blocks"},
            {"method": {"name": "instant_slider", "concepts": [CONCEPT]}},
            "base_model.offload: instant_slider reads all weights at once",
        ),
    ],
)
def test_it_is_refused_by_name(base: dict[str, Any], sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ProblemsFound) as caught:
        parse_recipe(recipe_with(base, **sections), plugins=SHIPPED)
    assert any(said in str(problem) for problem in caught.value.problems)


def test_trained_text_encoders_go_with_blocks_that_wait() -> None:
    adapter = {"name": "lora", "text_encoders": {"rank": 2}}
    base = {"offload": "blocks", "blocks_on_host": 3}
    recipe = parse_recipe(recipe_with(base, adapter=adapter), plugins=SHIPPED)
    assert parse_text(dump_recipe(recipe), "again", plugins=SHIPPED) == recipe
    with pytest.raises(ProblemsFound, match="trained text encoders stay on the device"):
        parse_recipe(recipe_with({"offload": "model"}, adapter=adapter), plugins=SHIPPED)
