"""Contracts of the schedule, noise, timestep, loss and adapter drop-ins, over every file."""

from __future__ import annotations

import inspect
import math
from types import SimpleNamespace

import pytest
import torch
from peft import PeftConfig
from torch.nn import functional

from loba_tui.core.plugins import KINDS, SHIPPED

# What must be given because it has no default.
REQUIRED = {"custom": {"factors": {"*.attn2.*": 0.5}}}


@pytest.mark.parametrize("kind", KINDS)
def test_every_drop_in_is_described_without_import_as_it_is_when_imported(kind: str) -> None:
    assert SHIPPED.names(kind)
    for name in SHIPPED.names(kind):
        described = SHIPPED.describe(kind, name)
        assert described.doc, f"{kind}/{name} has no docstring"
        signature = inspect.signature(SHIPPED.load(kind, name))
        keywords = {
            key: parameter
            for key, parameter in signature.parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        assert set(described.options) == set(keywords)
        assert not any(
            parameter.kind is inspect.Parameter.VAR_KEYWORD
            for parameter in signature.parameters.values()
        ), "a shipped drop-in names its options"


@pytest.mark.parametrize("name", SHIPPED.names("model"))
def test_a_model_scheduler_gives_finite_factors_of_at_most_one(name: str) -> None:
    factor = SHIPPED.load("model", name)(None, 100)
    values = [factor(step) for step in range(100)]
    assert all(math.isfinite(value) and 0 <= value <= 1 for value in values)
    assert max(values) == pytest.approx(1.0)


def test_cosine_matches_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    factor = SHIPPED.load("model", "cosine")(None, 50)
    for step in range(50):
        assert factor(step) == pytest.approx(oracle.get_last_lr()[0])
        optimizer.step()
        oracle.step()


@pytest.mark.parametrize("name", SHIPPED.names("layer"))
def test_a_layer_scheduler_gives_one_factor_per_group(name: str) -> None:
    names = [
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        "mid_block.resnets.0.conv1",
    ]
    groups = SimpleNamespace(param_groups=[{"name": name, "params": []} for name in names])
    factors = SHIPPED.load("layer", name)(groups, **REQUIRED.get(name, {}))
    assert len(factors) == 2
    assert all(math.isfinite(factor) and factor >= 0 for factor in factors)


@pytest.mark.parametrize("name", SHIPPED.names("timestep"))
def test_a_timestep_scheduler_is_a_density(name: str) -> None:
    density = SHIPPED.load("timestep", name)()
    for progress in (0.0, 0.5, 1.0):
        weights = density(torch.linspace(0, 1, 50), progress)
        assert weights.shape == (50,)
        assert bool((weights >= 0).all())
        assert float(weights.sum()) > 0


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("mse", functional.mse_loss),
        ("l1", functional.l1_loss),
        ("huber", lambda a, b, reduction: functional.huber_loss(a, b, reduction, delta=0.1)),
    ],
)
def test_a_loss_is_torchs_own_elementwise(name: str, oracle: object) -> None:
    a, b = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    ours = SHIPPED.load("losses", name)()(a, b)
    assert ours.shape == a.shape
    torch.testing.assert_close(ours, oracle(a, b, reduction="none"))  # type: ignore[operator]


@pytest.mark.parametrize("name", SHIPPED.names("adapters"))
def test_an_adapter_is_a_peft_config_of_the_wanted_layers(name: str) -> None:
    targets = {"cross_attention": ["x.attn2.to_k"], "convolution": ["y.conv1"]}
    alpha = 1.0 if name == "oft" else 2.0  # a rotation has none
    config = SHIPPED.load("adapters", name)(
        targets, rank=3, alpha=alpha, layers=["cross_attention"]
    )
    assert isinstance(config, PeftConfig)
    assert set(config.target_modules) == {"x.attn2.to_k"}
    if name == "oft":
        assert config.oft_block_size == 3
        return
    assert config.r == 3
    assert getattr(config, "lora_alpha", getattr(config, "alpha", None)) == alpha
