"""Contracts that every optimizer drop-in must pass, plus the learning rates."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from loba_tui.core import plugins
from loba_tui.core.errors import CorruptError
from loba_tui.core.program.optimizer_state import LearningRates, export_state, import_state

OPTIMIZERS = plugins.names("optimizers")


def make(name: str) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer, Tensor]:
    generator = torch.Generator().manual_seed(0)
    parameters = {
        "a": nn.Parameter(torch.randn(6, 4, generator=generator)),
        "b": nn.Parameter(torch.randn(4, generator=generator)),
    }
    target = torch.randn(6, generator=generator)
    groups = [{"params": [parameter]} for parameter in parameters.values()]
    return parameters, plugins.load("optimizers", name)(groups, 0.02), target


def train(
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    target: Tensor,
    steps: int,
) -> float:
    loss = torch.tensor(0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((parameters["a"] @ parameters["b"] - target) ** 2).sum()
        loss.backward()
        optimizer.step()
    return float(loss)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_lowers_a_loss(name: str) -> None:
    problem = make(name)
    first = train(*problem, steps=1)
    assert train(*problem, steps=100) < 0.2 * first


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_through_json_and_tensors_goes_on_bit_by_bit(name: str) -> None:
    parameters, optimizer, target = make(name)
    train(parameters, optimizer, target, steps=5)
    names = {parameter: key for key, parameter in parameters.items()}
    tensors, plain = export_state(optimizer, names)
    plain = json.loads(json.dumps(plain))
    weights = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    train(parameters, optimizer, target, steps=5)

    resumed, fresh, _ = make(name)
    with torch.no_grad():
        for key, parameter in resumed.items():
            parameter.copy_(weights[key])
    import_state(fresh, {parameter: key for key, parameter in resumed.items()}, tensors, plain)
    train(resumed, fresh, target, steps=5)
    for key, parameter in parameters.items():
        assert torch.equal(parameter, resumed[key])


def test_state_of_other_parameters_is_refused() -> None:
    parameters, optimizer, target = make("adamw")
    train(parameters, optimizer, target, steps=1)
    tensors, plain = export_state(optimizer, {p: f"old.{n}" for n, p in parameters.items()})
    with pytest.raises(CorruptError, match=r"old\."):
        import_state(optimizer, {p: n for n, p in parameters.items()}, tensors, plain)


def test_model_and_layer_factors_multiply() -> None:
    _, optimizer, _ = make("adamw")
    rates = LearningRates(optimizer, 1e-3, lambda step: 1 / (step + 1), [1.0, 0.5])
    assert rates.set(3) == pytest.approx(2.5e-4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2.5e-4, 1.25e-4])
