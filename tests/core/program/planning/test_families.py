"""What runs on models with a transformer take, told from shipped configurations."""

from __future__ import annotations

import pytest
import torch

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.planning.estimate import Estimator
from loba_tui.core.recipe import shipped
from loba_tui.core.recipe.load import load_recipe

GIB = 2**30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights", "loading"),
    [("flux2-klein/slider", 3.875e9 + 84e6, 4.022e9), ("sd3/leco", 2.470e9 + 84e6, 5.581e9)],
)
def test_memory_is_told_without_a_download(
    name: str, weights: float, loading: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = shipped.folder() / f"{name}.yaml"
    settings = ["base_model.device=cpu", "base_model.gradient_checkpointing=true"]
    recipe = load_recipe(str(path), settings, plugins=SHIPPED)

    found = Estimator(torch.device("cpu"), plugins=SHIPPED).estimate(recipe)

    memory = found.memory
    assert found.origin == "shipped"
    assert memory.weights == pytest.approx(2 * weights, rel=1e-3)
    assert memory.loading == pytest.approx(2 * (weights + loading), rel=0.02)
    # Nothing but one block's activations is held of a step with checkpointing.
    assert memory.weights < memory.training < memory.weights + 3 * GIB
    assert memory.worst_phase == "loading"
