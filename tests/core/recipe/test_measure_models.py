"""Models that measures read with, in a recipe: pinned, named safely, and used where they fit."""

from __future__ import annotations

import pytest

from loba_tui.client.recipes.strangers import StrangersRecipe
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import dump_recipe, parse_recipe
from loba_tui.core.recipe.measure_models import measure_models
from loba_tui.core.recipe.problems import ProblemsFound

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCORE = {"name": "clip_score", "text": "a cat", "model": "me/clip", "revision": COMMIT}
DIRECTION = {"name": "clip_direction", "positive": "old", "negative": "young", "model": "me/clip"}
DINO = {"name": "dino_similarity", "model": "me/dino", "revision": COMMIT}


def recipe_with(measure=None, preserve=(), scales=(-1, 0, 1), **proof):
    section = {"preserve": list(preserve), **proof}
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl"},
            "method": {
                "name": "text_slider",
                "concepts": [{"target": "x", "positive": "y", "negative": "z"}],
            },
            "sample": {"scales": list(scales)},
            "proof": section | ({"measure": measure} if measure else {}),
        },
        plugins=SHIPPED,
    )


def test_each_model_is_told_once_with_the_key_that_names_it():
    found = list(measure_models(recipe_with(SCORE, [DINO, {**SCORE, "text": "a dog"}]), SHIPPED))
    assert [(each.kind, each.id, each.revision, each.key) for each in found] == [
        ("clip", "me/clip", COMMIT, "proof.measure"),
        ("dino", "me/dino", COMMIT, "proof.preserve.0"),
    ]
    assert not list(measure_models(recipe_with({"name": "mean_brightness"}), SHIPPED))


@pytest.mark.parametrize(
    ("given", "phrases"),
    [
        ({"measure": {**SCORE, "revision": None}}, ["proof.measure.model", "commit of me/clip"]),
        ({"measure": {**SCORE, "revision": "main"}}, ["proof.measure.revision", "40 hex"]),
        ({"measure": {**SCORE, "revision": "../x"}}, ["proof.measure.revision"]),
        ({"measure": {**SCORE, "model": "a\nb"}}, ["proof.measure.model"]),
        ({"measure": {"name": "clip_score", "text": "x"}}, ["clip_score needs this option"]),
        ({"measure": {**SCORE, "model": "builtin:nothing"}}, ["builtin:nothing"]),
        ({"preserve": [{**DINO, "model": "builtin:shapes-xl"}]}, ["preserve.0.model", "hub id"]),
        ({"measure": DINO}, ["proof.measure.name", "both sides", "proof.preserve"]),
        ({"measure": DINO, "erased": "cat"}, ["gives no labels"]),
        ({"preserve": [{**DIRECTION, "revision": COMMIT}]}, ["within: 1.0"]),
        ({"preserve": [{**DINO, "within": -1}]}, ["proof.preserve.0.within"]),
    ],
)
def test_what_cannot_be_measured_is_said_with_its_key(given, phrases):
    with pytest.raises(ProblemsFound) as caught:
        recipe_with(**given)
    for phrase in phrases:
        assert phrase in str(caught.value)


def test_what_compares_measures_a_slider_of_one_side_and_preserves_any():
    assert recipe_with(DINO, scales=(0, 1, 2)).proof.measure.name == "dino_similarity"
    kept = recipe_with(preserve=[DINO, {**DIRECTION, "revision": COMMIT, "within": 1.5}])
    assert [each.within for each in kept.proof.preserve] == [None, 1.5]


def test_a_folder_needs_no_revision_and_may_have_none(tmp_path):
    folder = str(tmp_path)
    assert recipe_with({**SCORE, "model": folder, "revision": None})
    with pytest.raises(ProblemsFound, match="has no revisions"):
        recipe_with({**SCORE, "model": folder})


def test_a_strangers_recipe_shows_what_it_is_measured_by_and_names_no_folder(tmp_path):
    text = dump_recipe(recipe_with(SCORE))
    stranger = StrangersRecipe(text, "elsewhere")
    shown = "\n".join(stranger.lines(stranger.load(plugins=SHIPPED)))
    assert f"measured by me/clip: revision {COMMIT} of the hub" in shown
    local = dump_recipe(recipe_with({**SCORE, "model": str(tmp_path), "revision": None}))
    with pytest.raises(ProblemsFound, match="may not name a folder"):
        StrangersRecipe(local, "elsewhere").load(plugins=SHIPPED)
    assert StrangersRecipe(local, "elsewhere").load(allowed=[tmp_path], plugins=SHIPPED)
