"""An estimate that was made is taken again only while all that it follows from is the same."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from program_runs import shape_slider

from loba_tui.core.plugins import SHIPPED, Plugins
from loba_tui.core.plugins.user import UserPlugins
from loba_tui.core.program.planning.estimate import Estimator
from loba_tui.core.program.planning.known_estimates import estimate_of
from loba_tui.core.recipe.schema import Recipe


@dataclass
class Counting:
    """An estimator whose estimates are numbers."""

    plugins: Plugins = SHIPPED
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    processes: int = 1
    made: int = 0

    def estimate(self, recipe: Recipe) -> Any:
        self.made += 1
        return self.made


def recipe_of(model: object, seed: int = 0, **sections: Any) -> Recipe:
    base_model = {"id": str(model), "device": "cpu"}
    return shape_slider(2, base_model=base_model, train={"seed": seed}, **sections)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of its own for each test, so that none finds what another has left."""
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "config.json").write_text("{}")
    return tmp_path / "model"


def test_it_is_made_once_and_by_the_estimator(tiny_sdxl_folder: Path) -> None:
    recipe, estimator = recipe_of(tiny_sdxl_folder), Estimator(torch.device("cpu"), SHIPPED)
    first = estimate_of(recipe, estimator)
    assert first == estimator.estimate(recipe)
    assert estimate_of(recipe, Estimator(torch.device("cpu"), SHIPPED)) is first


def test_whatever_differs_makes_another(model: Path) -> None:
    counting = Counting()
    recipe = recipe_of(model)
    assert [estimate_of(recipe, counting) for _ in range(2)] == [1, 1]
    assert estimate_of(recipe_of(model, seed=1), counting) == 2
    assert estimate_of(recipe, Counting(device=torch.device("meta"))) == 1
    (model / "unet" / "config.json").write_text("{ }")
    assert [estimate_of(recipe, counting) for _ in range(2)] == [3, 3]
    (model / "vae").mkdir()
    (model / "vae" / "config.json").write_text("{}")
    assert estimate_of(recipe, counting) == 4


def test_a_prompt_that_looks_like_a_path_is_none(model: Path) -> None:
    counting = Counting()
    recipe = recipe_of(model, sample={"prompts": ["~nobody/ a/b", "a/" * 5000, "a/\x7fb"]})
    assert [estimate_of(recipe, counting) for _ in range(2)] == [1, 1]


def test_what_is_not_in_sight_is_never_taken_for_the_same(model: Path, tmp_path: Path) -> None:
    counting = Counting()
    recipe = recipe_of("somebody/a-model")
    assert [estimate_of(recipe, counting) for _ in range(2)] == [1, 2]
    (tmp_path / "plugins" / "losses").mkdir(parents=True)
    (tmp_path / "plugins" / "losses" / "mine.py").write_text("")
    counting.plugins = Plugins(UserPlugins(tmp_path / "plugins"))
    assert [estimate_of(recipe_of(model), counting) for _ in range(2)] == [3, 4]
