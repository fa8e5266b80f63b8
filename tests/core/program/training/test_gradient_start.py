"""`adapter.init: gradient`: where A begins, and what else stays as it was."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.training.ema import MovingAverage
from loba_tui.core.program.training.gradient_start import GradientStart
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.schema import EmaSection


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(12, 10), nn.Conv2d(3, 6, 3)


@pytest.fixture
def network() -> Layers:
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["one", "two"], init_lora_weights="gaussian")
    return inject_adapter_in_model(config, Layers())


def loss_of(network: Layers, wanted: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    flat = (network.one(torch.randn(64, 12)) * (torch.randn(64, 12) @ wanted.T)).sum()
    return flat + network.two(torch.randn(4, 3, 5, 5)).square().sum()


def test_rows_lie_along_the_gradient_and_the_update_is_zero(network: Layers) -> None:
    wanted = torch.randn(10, 12)
    weight = network.one.base_layer.weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_of(network, wanted), [weight])
    weight.requires_grad_(False)
    before = network.one.lora_A["default"].weight.detach().clone()

    def caught(rows: torch.Tensor) -> torch.Tensor:
        basis, _ = torch.linalg.qr(rows.T)
        return (gradient @ basis).norm() / gradient.norm()

    GradientStart(network, seed=0)(lambda: loss_of(network, wanted).backward())

    after = network.one.lora_A["default"].weight.detach()
    assert caught(after) > max(0.6, 1.5 * caught(before))
    length = before.norm(dim=1).mean()
    assert (after @ after.T).allclose(length**2 * torch.eye(2), atol=1e-4)
    convolution = network.two.lora_A["default"].weight.detach().flatten(1)
    assert (convolution @ convolution.T)[0, 1].abs() < 1e-5
    assert not network.one.lora_B["default"].weight.any()
    assert not network.two.lora_B["default"].weight.any()


def test_a_gradient_of_low_rank_is_caught_whole(network: Layers) -> None:
    torch.manual_seed(2)
    inputs, outputs = torch.randn(2, 12), torch.randn(2, 10)
    GradientStart(network, seed=0)(lambda: (network.one(inputs) * outputs).sum().backward())
    rows = network.one.lora_A["default"].weight.detach()
    basis, _ = torch.linalg.qr(inputs.T)
    assert (rows @ basis @ basis.T).allclose(rows, atol=1e-5)


def test_layers_with_an_update_and_without_a_gradient_stay(network: Layers) -> None:
    with torch.no_grad():
        network.one.lora_B["default"].weight.fill_(0.5)
    before = {name: each.detach().clone() for name, each in network.named_parameters()}
    GradientStart(network, seed=0)(lambda: network.one(torch.randn(2, 12)).sum().backward())
    for name, each in network.named_parameters():
        assert each.equal(before[name]), name


def test_frozen_layers_stay(network: Layers) -> None:
    down = network.one.lora_A["default"].weight.requires_grad_(False)
    before = down.clone()
    wanted = torch.randn(10, 12)
    GradientStart(network, seed=0)(lambda: loss_of(network, wanted).backward())
    assert down.equal(before)


@pytest.mark.parametrize("adapter", ["dora", "loha", "lokr", "oft"])
def test_other_kinds_are_refused(adapter: str) -> None:
    concept = {"target": "a dot", "positive": "a large dot", "negative": "a small dot"}
    recipe = {
        "version": 1,
        "base_model": {"id": "builtin:shapes-xl"},
        "adapter": {"name": adapter, "init": "gradient"},
        "method": {"name": "text_slider", "concepts": [concept]},
    }
    with pytest.raises(RecipeError, match=r"adapter\.init: only a LoRA or LoCon"):
        parse_recipe(recipe, origin="test", plugins=SHIPPED)


def test_another_kind_of_a_drop_in_of_ones_own_is_refused() -> None:
    config = LoraConfig(r=2, target_modules=["one"], use_dora=True)
    with pytest.raises(RecipeError, match="one is adapted otherwise"):
        GradientStart(inject_adapter_in_model(config, Layers()), seed=0)


def test_what_fails_leaves_the_weights(network: Layers) -> None:
    before = {name: each.detach().clone() for name, each in network.named_parameters()}

    def backward() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        GradientStart(network, seed=0)(backward)
    for name, each in network.named_parameters():
        assert each.equal(before[name]), name


def test_an_average_begins_at_the_new_weights() -> None:
    weight = nn.Parameter(torch.zeros(3))
    average = MovingAverage({"a": weight}, EmaSection(decay=0.9))
    with torch.no_grad():
        weight.fill_(2.0)
    average.restart()
    assert average.tensors()["a"].equal(torch.full((3,), 2.0))
    assert average.num_steps == 0
