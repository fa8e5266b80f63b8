"""Processes that share the tokens of their rows compute what one process does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sequence_cases
from process_groups import Trained, new_job, run_together, train_together
from program_runs import new_run, run_here
from tiny_families import RESOLUTION, save_tiny

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe import shipped
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.recipe.schema import Recipe

OF_UNETS = [name for name in sequence_cases.CASES if name.startswith("unet")]
OF_TRANSFORMERS = [
    name for name in sequence_cases.CASES if name.split()[0] in ("FLUX.1", "FLUX.2", "Qwen-Image")
]
REFUSED = {
    "refused Z-Image": "diffusers has no plan for ZImageTransformer2DModel",
    "refused SD 3": "diffusers has no plan for SD3Transformer2DModel",
    "refused ring on a CPU": "parallel.ring needs CUDA, and the device is cpu",
    "refused ring, checkpointing": "parallel.ring does not go with gradient checkpointing",
    "refused ring, a mask": "need a mask, which a ring has not",
    "refused FLUX.1": "2 processes cannot share 5 states of a prompt evenly",
    "refused three heads": "3 does not divide the 2 heads",
}
AT_FOUR = ["unet by heads", "unet by keys, checkpointing, tokens that do not divide"]
STEPS = 6


def found_by(num_processes: int, names: list[str], folder: Path) -> dict[str, Any]:
    """Return what so many processes found of each case."""
    file = folder / "found.json"
    run_together([sequence_cases.__file__, str(file), *names], num_processes, folder)
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    names = [*OF_UNETS, *OF_TRANSFORMERS, *REFUSED]
    return found_by(2, names, tmp_path_factory.mktemp("two"))


def holds(of: dict[str, float], tolerance: float) -> None:
    """Check differences; the gradients are of all adapted layers and of the prompt's states."""
    assert of["number"] > 20
    assert of["largest"] > 1e-3
    assert max(of[name] for name in ("output", "base", "gradients")) < tolerance
    assert of["off"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("case", OF_UNETS)
def test_a_unet_has_the_gradients_of_one_process(found: dict[str, Any], case: str) -> None:
    holds(found[case], 1e-9)  # float64
    # Residual blocks and convolutions are computed whole.
    assert "checkpointing" in case or found[case]["saved"] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("case", OF_TRANSFORMERS)
def test_a_transformer_has_the_gradients_of_one_process(found: dict[str, Any], case: str) -> None:
    holds(found[case], 2e-6)
    assert "checkpointing" in case or found[case]["saved"] < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_shared_is_refused_by_name(found: dict[str, Any], case: str) -> None:
    assert REFUSED[case] in found[case]


@pytest.mark.slow
def test_four_processes_exchange_heads_or_gather_keys(tmp_path: Path) -> None:
    for of in found_by(4, AT_FOUR, tmp_path).values():
        holds(of, 1e-9)


def flux_slider(model: Path, *changes: str) -> Recipe:
    """Return the shipped slider of FLUX.1, small enough for a processor."""
    given = [
        f"base_model.id={model}",
        "base_model.device=cpu",
        "base_model.dtype=float32",
        "base_model.threads=1",
        "base_model.gradient_checkpointing=false",
        f"train.resolution={RESOLUTION}",
        f"train.steps={STEPS}",
        "train.gradient_accumulation=1",
        "method.rollout_steps=3",
        "train.efficacy_every=0",
        f"sample.every={STEPS}",
        "sample.steps=2",
        "proof.enabled=false",
    ]
    path = shipped.folder() / "flux" / "slider.yaml"
    return load_recipe(str(path), [*given, *changes], plugins=SHIPPED)


@pytest.mark.slow
def test_a_transformer_trains_the_same_by_heads_and_in_a_ring(tmp_path: Path) -> None:
    save_tiny("flux-dev", tmp_path / "model")
    recipe = flux_slider(tmp_path / "model")
    alone = Trained(run_here(recipe, new_run(recipe, tmp_path / "alone")))
    jobs = [
        new_job(flux_slider(tmp_path / "model", f"parallel.{key}=2"), tmp_path)
        for key in ("ulysses", "ring")
    ]
    for shared in train_together(jobs, 2, tmp_path):
        np.testing.assert_allclose(shared.losses, alone.losses, rtol=1e-4)
        ours, theirs = shared.adapter, alone.adapter
        assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 2e-5
        assert max(float(value.abs().max()) for value in theirs.values()) > 1e-4
        assert [event["step"] for event in shared.events("sampled")] == [STEPS]
