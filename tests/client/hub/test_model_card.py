"""The page of an upload says what a run and its adapter say, and nothing that they smuggle in."""

from __future__ import annotations

from pathlib import Path

import pytest

from loba_tui.client.hub.model_card import CardFacts, model_card
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.recipe.shipped import folder


@pytest.mark.parametrize("revision", ["x`\n# Forged\n`", "main](http://evil)", "-x", "a b", ""])
def test_a_revision_of_an_adapters_metadata_adds_nothing_to_the_page(revision: str) -> None:
    recipe = load_recipe(Path(folder()) / "sdxl" / "slider.yaml", plugins=Plugins.of_user({}))
    facts = CardFacts(
        repo_id="me/x",
        recipe=recipe,
        metadata={},
        report=None,
        base_revision=revision,
        license=None,
        peft=None,
        other=None,
        strip=None,
        picture=None,
    )
    page = model_card(facts)
    assert not [line for line in page.splitlines() if line.startswith("# ") and "Forged" in line]
    assert "evil" not in page
    assert " at `" not in page
