"""Contracts that every optimizer drop-in must pass, plus the learning rates."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from loba_tui.core.errors import CorruptError, ResourceError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.learning_rates import LearningRates
from loba_tui.core.program.training.optimizer_state import (
    averaged_weights,
    export_state,
    import_state,
)
from loba_tui.core.recipe.load import parse_text

OPTIMIZERS = [
    pytest.param(name, marks=needs_package)
    for name in SHIPPED.names("optimizers")
    for needs_package in [
        pytest.mark.skipif(
            name == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None,
            reason="bitsandbytes is not installed",
        )
    ]
]

# Where the usual rate does not fit the small problems below.
RATES = {"prodigy": 1.0, "lamb": 0.05, "adafactor": 0.05, "sgd": 0.005}


def make(
    name: str, lr: float | None = None, rows: int = 6, columns: int = 4
) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer, Tensor]:
    generator = torch.Generator().manual_seed(0)
    parameters = {
        "a": nn.Parameter(torch.randn(rows, columns, generator=generator)),
        "b": nn.Parameter(torch.randn(columns, generator=generator)),
    }
    target = torch.randn(rows, generator=generator)
    groups = [{"params": [parameter]} for parameter in parameters.values()]
    rate = RATES.get(name, 0.02) if lr is None else lr
    return parameters, SHIPPED.load("optimizers", name)(groups, rate), target


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
def test_an_optimizer_converges_on_a_convex_problem(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = nn.Parameter(torch.zeros(8, 3))
    inputs, wanted = torch.randn(32, 8, generator=generator), torch.randn(8, 3, generator=generator)
    rates = {"sgd": 0.1, "prodigy": 1.0, "adafactor": 0.1, "novograd": 0.1}
    rates["schedule_free_adamw"] = 0.3
    rate = rates.get(name, 0.03)
    optimizer = SHIPPED.load("optimizers", name)([weights], rate)
    for step in range(400):
        # Steps of a fixed or relative size come only as near as the rate is small.
        optimizer.param_groups[0]["lr"] = rate * (1 - step / 400)
        optimizer.zero_grad()
        (inputs @ (weights - wanted)).pow(2).mean().backward()
        optimizer.step()
    with averaged_weights(optimizer, [weights]):
        assert float((weights - wanted).norm() / wanted.norm()) < 0.05


# Its 8-bit moments begin at 4096 elements; the others keep the same kinds of state at any size.
SIZES = [(6, 4), (70, 64)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_through_json_and_tensors_goes_on_bit_by_bit(
    name: str, size: tuple[int, int]
) -> None:
    parameters, optimizer, target = make(name, 1e-3, *size)
    train(parameters, optimizer, target, steps=5)
    names = {parameter: key for key, parameter in parameters.items()}
    tensors, plain = export_state(optimizer, names)
    stored = load(save(tensors)), json.loads(json.dumps(plain, allow_nan=False))
    weights = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    train(parameters, optimizer, target, steps=5)

    resumed, fresh, _ = make(name, 1e-3, *size)
    with torch.no_grad():
        for key, parameter in resumed.items():
            parameter.copy_(weights[key])
    fresh_names = {parameter: key for key, parameter in resumed.items()}
    import_state(fresh, fresh_names, *stored)
    again, plain_again = export_state(fresh, fresh_names)
    assert plain_again == plain
    assert {key: value.dtype for key, value in again.items()} == {
        key: value.dtype for key, value in tensors.items()
    }
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)
    train(resumed, fresh, target, steps=5)
    for key, parameter in parameters.items():
        assert torch.equal(parameter, resumed[key])


def _library(name: str) -> Any:
    """Return the library's own optimizer, told the drop-in's options in the library's words."""
    from pytorch_optimizer import CAME, Lamb, Lion, NovoGrad, Prodigy
    from schedulefree import AdamWScheduleFree
    from torch import optim

    decayed = {"weight_decay": 0.01, "decoupled_weight_decay": True}
    makers = {
        "adamw": lambda p: optim.AdamW(p, lr=0.01),
        "radam": lambda p: optim.RAdam(p, lr=0.01, betas=(0.9, 0.99), **decayed),
        "nadam": lambda p: optim.NAdam(p, lr=0.01, **decayed),
        "adafactor": lambda p: optim.Adafactor(p, lr=0.01, eps=(None, 0.05)),
        "sgd": lambda p: optim.SGD(p, lr=1e-4, momentum=0.9, nesterov=True),
        "novograd": lambda p: NovoGrad(p, lr=0.01, grad_averaging=True),
        "lion": lambda p: Lion(p, lr=0.01, weight_decay=0.01),
        "lamb": lambda p: Lamb(p, lr=0.01),
        "came": lambda p: CAME(p, lr=0.01, weight_decay=0.01),
        "prodigy": lambda p: Prodigy(
            p, lr=0.01, betas=(0.9, 0.99), d0=1e-5, weight_decay=0.01,
            bias_correction=True, safeguard_warmup=True,
        ),
        "schedule_free_adamw": lambda p: AdamWScheduleFree(p, lr=0.01, weight_decay=0.01),
    }  # fmt: skip
    if name == "adamw_8bit":
        return lambda p: importlib.import_module("bitsandbytes.optim").AdamW8bit(p, lr=0.01)
    return makers[name]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_the_librarys_own(name: str) -> None:
    rate = 1e-4 if name == "sgd" else 0.01
    parameters, optimizer, target = make(name, rate, 70, 64)
    theirs, _, _ = make(name, rate, 70, 64)
    oracle = _library(name)([{"params": [parameter]} for parameter in theirs.values()])
    if hasattr(oracle, "train"):
        oracle.train()
    train(parameters, optimizer, target, steps=10)
    train(theirs, oracle, target, steps=10)
    for key, parameter in parameters.items():
        assert torch.equal(parameter, theirs[key])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_says_how_a_recipe_asks_for_it(name: str) -> None:
    doc = SHIPPED.describe("optimizers", name).doc
    assert "https://" in doc, "cites its paper"
    (snippet,) = re.findall(r"^For a slider: `(optimizer: .*)`$", doc, flags=re.MULTILINE)
    recipe = parse_text(
        "version: 1\nbase_model: {id: 'builtin:shapes-xl'}\n"
        f"method: {{name: text_slider, concepts: [{{target: a, positive: b, negative: c}}]}}\n"
        f"{snippet}\n",
        origin=name,
        plugins=SHIPPED,
    )
    assert recipe.optimizer.name == name


def test_there_are_the_twelve_that_the_specification_names() -> None:
    twelve = "adamw adamw_8bit radam nadam novograd adafactor lion lamb prodigy schedule_free_adamw"
    assert SHIPPED.names("optimizers") == sorted([*twelve.split(), "came", "sgd"])


def test_large_tensors_have_8_bit_moments() -> None:
    pytest.importorskip("bitsandbytes")
    parameters, optimizer, target = make("adamw_8bit", 1e-3, 70, 64)
    train(parameters, optimizer, target, steps=1)
    assert optimizer.state[parameters["a"]]["state1"].dtype == torch.uint8


def test_a_missing_bitsandbytes_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ResourceError, match="pip install"):
        make("adamw_8bit")


def test_averaged_weights_are_lent_and_taken_back_bit_by_bit() -> None:
    parameters, optimizer, target = make("schedule_free_adamw")
    train(parameters, optimizer, target, steps=7)
    trained = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    with averaged_weights(optimizer, parameters.values()):
        # x = y + (1 − 1/β₁)·(z − y), the average of all iterates.
        for key, parameter in parameters.items():
            z = optimizer.state[parameter]["z"]
            torch.testing.assert_close(parameter.data, torch.lerp(trained[key], z, 1 - 1 / 0.9))
            assert not torch.equal(parameter, trained[key])
    for key, parameter in parameters.items():
        assert torch.equal(parameter, trained[key])
    train(parameters, optimizer, target, steps=1)  # it is in train mode again


def test_averaged_weights_of_other_optimizers_are_the_trained_ones() -> None:
    parameters, optimizer, target = make("adamw")
    train(parameters, optimizer, target, steps=2)
    before = parameters["a"].detach().clone()
    with averaged_weights(optimizer, parameters.values()):
        assert torch.equal(parameters["a"], before)


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
