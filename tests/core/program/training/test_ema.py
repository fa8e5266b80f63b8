"""The average against its own definition, and what a run makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from program_runs import new_run, run_here, shape_slider
from safetensors.torch import load_file
from torch import nn

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.training.ema import MovingAverage, make_average
from loba_tui.core.recipe.schema import EmaSection, OptimizerSection, Recipe


def walk(steps: int) -> tuple[nn.Parameter, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.zeros(3, 4))
    return parameter, [torch.randn(3, 4, generator=generator) for _ in range(steps)]


def test_the_average_is_its_recursion() -> None:
    parameter, values = walk(40)
    average = MovingAverage({"w": parameter}, EmaSection(decay=0.7))
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for number, value in enumerate(values):
        parameter.data.copy_(value)
        average.step()
        decay = min(0.7, (1 + number) / (10 + number)) if number else 0.0
        expected = decay * expected + (1 - decay) * value.double()
    torch.testing.assert_close(average.tensors()["w"].double(), expected, rtol=1e-5, atol=1e-6)
    assert average.num_steps == 40


def test_it_is_lent_and_the_weights_come_back_bit_by_bit() -> None:
    parameter, values = walk(3)
    average = MovingAverage({"w": parameter}, EmaSection(decay=0.9))
    for value in values:
        parameter.data.copy_(value)
        average.step()
    with average.lent():
        assert torch.equal(parameter, average.tensors()["w"])
        assert not torch.equal(parameter, values[-1])
    assert torch.equal(parameter, values[-1])


def test_it_goes_on_exactly_from_what_was_kept() -> None:
    parameter, values = walk(20)
    one = MovingAverage({"w": parameter}, EmaSection(decay=0.9))
    for value in values[:10]:
        parameter.data.copy_(value)
        one.step()
    other = MovingAverage({"w": parameter}, EmaSection(decay=0.9))
    other.load(one.tensors(), one.num_steps)
    for value in values[10:]:
        parameter.data.copy_(value)
        one.step()
        other.step()
    assert torch.equal(one.tensors()["w"], other.tensors()["w"])


def test_the_average_of_another_shape_is_refused() -> None:
    parameter, _ = walk(1)
    average = MovingAverage({"w": parameter}, EmaSection())
    with pytest.raises(ValueError, match="the average of w"):
        average.load({"w": torch.zeros(1, 4)}, 3)


def test_an_optimizer_that_averages_itself_refuses_another_average() -> None:
    schedule_free = pytest.importorskip("schedulefree")
    parameter, _ = walk(1)
    optimizer = schedule_free.AdamWScheduleFree([parameter], lr=0.1)
    section = OptimizerSection(name="schedule_free_adamw")
    with pytest.raises(RecipeError, match="schedule_free_adamw averages the weights itself"):
        make_average(EmaSection(), {"w": parameter}, optimizer, section)
    assert make_average(None, {"w": parameter}, optimizer, section) is None


def recipe_of(**train: object) -> Recipe:
    return shape_slider(
        2,
        optimizer={"name": "adamw", "lr": 1e-2},
        train={"steps": 3, "batch_size": 1, **train},
        sample={"scales": [0, 1], "steps": 1, "prompts": ["a shape"]},
        proof={"enabled": False},
    )


def test_a_run_exports_the_average(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = recipe_of(ema={"decay": 0.9})
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    checkpoint = run_dir.checkpoints.path / "step-000003"
    averaged = load_file(checkpoint / "ema.safetensors")
    trained = load_file(checkpoint / "adapter.safetensors")
    exported = load_file(run_dir.adapter.path)
    assert averaged.keys() == trained.keys()
    assert len(exported) == len(averaged)
    kohya = load_file(run_dir.adapter_kohya.path)
    alpha = next(float(value) for key, value in kohya.items() if key.endswith(".alpha"))
    for name, average in averaged.items():
        written = exported["unet." + name.replace(".default", "")]
        # In this file alpha / rank, a power of two here, is in the up-projections.
        factor = alpha / average.shape[1] if ".lora_B." in name else 1.0
        assert torch.equal(written, average * factor)
        assert not torch.equal(trained[name], average)
