"""Estimates of one of several processes, under each engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from program_runs import shape_slider

from loba_tui.client.plans.requirements_text import process_lines
from loba_tui.core.associate.caches.memory import block_offload
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.planning.estimate import Estimator
from loba_tui.core.program.planning.requirements import by_engine
from loba_tui.core.recipe.schema import Recipe

CPU = torch.device("cpu")


def memory_of(found: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {row["engine"]: row["memory"] for row in found["rows"] if row["refused"] is None}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return shape_slider(4)


def test_each_engine_shares_what_it_says(recipe: Recipe) -> None:
    found = memory_of(by_engine(recipe, 2, SHIPPED))
    ddp, one, two, three = (found[name] for name in ("ddp", "ZeRO-1", "ZeRO-2", "ZeRO-3"))
    changed = {name for name in ddp if one[name] != ddp[name]}
    assert changed <= {"optimizer", "training", "sampling", "peak", "needed"}
    assert one["optimizer"] == two["optimizer"] == ddp["optimizer"] // 2
    assert two["gradients"] == ddp["gradients"] // 2
    # It shares the base as fsdp2 does, and leaves each process the whole adapter and its states.
    assert three == found["fsdp2"]
    changed = {name for name in ddp if three[name] != ddp[name]}
    assert changed == {"weights", "training", "sampling", "peak", "needed"}
    # Two processes that train so hold .60 to .63 each: residual blocks are computed whole.
    assert 0.63 < found["sequence"]["activations"] / ddp["activations"] < 0.7
    alone = Estimator(CPU, SHIPPED).estimate(recipe).memory
    assert ddp["needed"] == alone.needed


def test_shards_are_the_base_but_for_what_is_gathered(recipe: Recipe) -> None:
    found = memory_of(by_engine(recipe, 2, SHIPPED))
    networks = Estimator(CPU, SHIPPED)._open(recipe, torch.float32)
    denoiser = networks.shapes.container.denoiser
    base = 4 * sum(p.numel() for p in denoiser.parameters() if not p.requires_grad)
    gathered = sum(block_offload.resident_bytes(denoiser, None, networks.adapter))
    saved = found["ddp"]["weights"] - found["fsdp2"]["weights"]
    assert saved == base // 2 - gathered > base // 8
    assert found["fsdp2"]["loading"] == found["ddp"]["loading"]


def test_it_is_told_in_lines(recipe: Recipe) -> None:
    other = recipe.model_copy(
        update={"adapter": recipe.adapter.model_copy(update={"name": "dora"})}
    )
    lines = "\n".join(process_lines(by_engine(other, 2, SHIPPED)))
    assert (
        "fsdp2       not with this recipe: fsdp2 trains lora, locon, loha, lokr, oft; take ddp"
        in lines
    )
    assert "ZeRO-1 and ZeRO-2 bring an adapter next to nothing" in lines
