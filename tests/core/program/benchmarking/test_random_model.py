"""Networks of every family, filled with random weights."""

from pathlib import Path

import pytest
import torch

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.benchmarking.random_model import open_random
from loba_tui.core.program.open_model import prompts_of
from loba_tui.core.recipe.load import parse_recipe


def recipe_on(model: Path, dtype: str) -> dict[str, object]:
    return {
        "version": 1,
        "base_model": {"id": str(model), "device": "cpu", "dtype": dtype},
        "method": {"name": "leco", "concepts": [{"target": "a circle"}]},
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_prediction_is_finite_and_depends_on_the_prompt(tiny_folder: Path, dtype: str) -> None:
    recipe = parse_recipe(recipe_on(tiny_folder, dtype), plugins=SHIPPED)
    model = open_random(recipe, [*prompts_of(recipe), "another"], SHIPPED)
    container = model.container
    assert container.dtype == getattr(torch, dtype)
    assert all(getattr(container.pipeline, name) is None for name in container.text_encoders), (
        "text encoders take memory, and nobody reads with them"
    )
    latents = torch.randn(1, *container.latent_shape())
    with torch.no_grad():
        one, other = (
            container.predict(latents, torch.tensor([500]), model.embeds[prompt])
            for prompt in ("a circle", "another")
        )
    assert bool(one.isfinite().all())
    assert 0.01 < float(one.std()) < 100
    assert not one.equal(other)
