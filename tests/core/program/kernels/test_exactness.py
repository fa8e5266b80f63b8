"""A recipe's choice of exact or fast kernels, carried out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from steering_stand_in import steering_of

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.benchmarking.subject import forget_accelerators
from loba_tui.core.program.build import build
from loba_tui.core.program.engines.open import open_engine
from loba_tui.core.program.open_model import open_model, prompts_of
from loba_tui.core.program.sampling.run_strips import StripDrawer
from loba_tui.core.program.steering.components import Components
from loba_tui.core.program.training.trainer import Trainer
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import NullWriter

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _own_accelerators() -> Iterator[None]:
    yield
    forget_accelerators()


def trainer_of(model: Path, folder: Path, *, dtype: str = "float32", **train: Any) -> Trainer:
    recipe = Recipe.model_validate(
        {
            "version": 1,
            "base_model": {"id": str(model), "dtype": dtype, "device": "cpu"},
            "adapter": {"name": "locon", "layers": ["cross_attention", "convolution"]},
            "method": {
                "name": "text_slider",
                "trajectories": "rolling",
                "rollout_steps": 2,
                "concepts": [{"target": "a", "positive": "b", "negative": "c"}],
            },
            "train": {"steps": 3, "batch_size": 2, **train},
        }
    )
    forget_accelerators()
    engine = open_engine(recipe)
    opened = open_model(recipe, prompts=prompts_of(recipe), plugins=SHIPPED)
    folder.mkdir(exist_ok=True)
    records, container = NullWriter(), opened.container
    steering = steering_of(recipe, RunDir(folder), records)
    components = Components(opened.wrapper.cache, recipe.base_model.id, container, records)
    strips = StripDrawer(recipe, opened, steering.context, components, engine)
    run = build(recipe, opened, engine=engine, steering=steering, strips=strips)
    assert isinstance(run, Trainer)
    return run


def weights_of(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.parameters.values()])


def test_fast_training_comes_to_the_same_but_for_rounding(
    small_sdxl_folder: Path, tmp_path: Path
) -> None:
    exact = trainer_of(small_sdxl_folder, tmp_path / "exact")
    begun = weights_of(exact)
    fast = trainer_of(small_sdxl_folder, tmp_path / "fast", exactness="fast")
    assert torch.equal(weights_of(fast), begun)
    exact.run()
    fast.run()
    moved, difference = weights_of(exact) - begun, weights_of(fast) - weights_of(exact)
    assert 0 < difference.norm() < 0.02 * moved.norm()


def test_fast_training_fuses_the_optimizer_and_lays_out_convolutions(
    small_sdxl_folder: Path, tmp_path: Path
) -> None:
    fast = trainer_of(small_sdxl_folder, tmp_path, exactness="fast")
    assert all(group["fused"] for group in fast._parts.optimizer.param_groups)
    convolution = fast._parts.student.conv_in.weight
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    assert fast.scale.multipliers.is_fast


def test_exact_training_leaves_them_as_they_are(small_sdxl_folder: Path, tmp_path: Path) -> None:
    exact = trainer_of(small_sdxl_folder, tmp_path)
    assert not any(group["fused"] for group in exact._parts.optimizer.param_groups)
    assert exact._parts.student.conv_in.weight.is_contiguous()
    assert not exact.scale.multipliers.is_fast


def test_a_model_of_low_precision_computes_in_it_without_autocast(
    small_sdxl_folder: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(small_sdxl_folder, tmp_path, dtype="bfloat16")
    seen: list[tuple[torch.dtype, bool]] = []
    norm = trainer._parts.student.conv_norm_out
    norm.register_forward_hook(
        lambda _module, _args, output: seen.append((output.dtype, torch.is_autocast_enabled("cpu")))
    )
    begun = weights_of(trainer)
    trainer.run(until=1)
    assert set(seen) == {(torch.bfloat16, False)}
    assert weights_of(trainer).dtype == torch.float32
    assert not torch.equal(weights_of(trainer), begun)
    assert trainer._parts.fingerprint.machine["autocast"] == "off"
