"""Blocks that wait in main memory: the same bits, and as many bytes on the device as is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import nn

from loba_tui.core.associate.caches.memory.block_offload import (
    BlockOffload,
    blocks_of,
    resident_bytes,
    spread,
)
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.associate.model_shapes import bytes_of, open_shapes
from loba_tui.core.associate.quantized import ScaledRows, quantize

CPU = torch.device("cpu")
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1", "conv2", "ff.net.2"]


def container_of(folder: Path) -> ModelContainer:
    container = ModelCache("cpu", "float32").container(str(folder))
    container.denoiser.requires_grad_(False)
    return container


def add_lora(denoiser: nn.Module) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=TARGETS))


def offload(denoiser: nn.Module, count: int | None = None) -> BlockOffload:
    """Have blocks wait where nothing can be read: who reads a weight that is away reads NaN."""
    found = BlockOffload(denoiser, CPU, count)
    for block in found._blocks:
        block.away = [
            torch.full_like(view, float("nan") if view.is_floating_point() else 0)
            for view in block.away
        ]
        block.point_to(block.away)
    return found


def outcome(container: ModelContainer) -> list[torch.Tensor]:
    """Return predictions and the adapter's gradients of a step as sliders have it."""
    denoiser = container.denoiser
    shape = container.latent_shape(2 * container.pixel_multiple)
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    embeds = container.encode_prompts(["a red circle", "a square"])
    timesteps = torch.tensor([20, 700])
    denoiser.disable_adapters()
    with torch.no_grad():
        taught = container.predict(noise, timesteps, embeds)
    denoiser.enable_adapters()
    predicted = container.predict(noise, timesteps, embeds)
    predicted.square().mean().backward()
    adapter = [p for p in denoiser.parameters() if p.requires_grad]
    found = [taught, predicted.detach(), *(p.grad.clone() for p in adapter)]
    for parameter in adapter:
        parameter.grad = None
    return found


@pytest.mark.parametrize(("checkpointing", "count"), [(False, None), (True, None), (True, 3)])
def test_predictions_and_gradients_are_the_same_bits(
    tiny_sdxl_folder: Path, checkpointing: bool, count: int | None
) -> None:
    plain, waiting = container_of(tiny_sdxl_folder), container_of(tiny_sdxl_folder)
    add_lora(plain.denoiser)
    moved = offload(waiting.denoiser, count)
    add_lora(waiting.denoiser)
    if checkpointing:
        plain.denoiser.enable_gradient_checkpointing()
        waiting.denoiser.enable_gradient_checkpointing(moved.checkpoint)
    num = len(blocks_of(plain.denoiser)) if count is None else count
    expected = outcome(plain)
    assert all(map(torch.equal, outcome(waiting), expected))
    first, moved.num_waits, moved.num_copies = moved.num_waits, 0, 0
    assert all(map(torch.equal, outcome(waiting), expected))
    # Three passes: without gradients, with them, and backward. Which block is next is guessed
    # where these meet alone.
    assert moved.num_waits <= 2 < first
    assert moved.num_copies <= 3 * num


def test_blocks_in_fewer_bits_can_wait(tiny_sdxl_folder: Path) -> None:
    def rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = weight.abs().amax(dim=1, keepdim=True) / 127
        return (weight / scale).round().to(torch.int8), scale

    plain, waiting = container_of(tiny_sdxl_folder), container_of(tiny_sdxl_folder)
    for container in (plain, waiting):
        quantize(container.denoiser, ScaledRows(torch.int8, rounded), CPU, name="rounded")
    add_lora(plain.denoiser)
    offload(waiting.denoiser)
    add_lora(waiting.denoiser)
    assert all(map(torch.equal, outcome(waiting), outcome(plain)))


def test_what_stays_on_the_device_is_what_is_estimated(tiny_sdxl_folder: Path) -> None:
    shapes = open_shapes(str(tiny_sdxl_folder), None, torch.float32).container.denoiser
    assert next(shapes.parameters()).is_meta
    for count in (None, 1, 4):
        denoiser = container_of(tiny_sdxl_folder).denoiser
        whole = bytes_of(denoiser)
        moved = BlockOffload(denoiser, CPU, count)
        waiting = {view.data_ptr() for block in moved._blocks for view in block.away}
        assert waiting
        tensors = [*denoiser.parameters(), *denoiser.buffers()]
        there = sum(t.untyped_storage().nbytes() for t in tensors if t.data_ptr() not in waiting)
        buffers = sum(buffer.memory.untyped_storage().nbytes() for buffer in moved._buffers)
        assert resident_bytes(shapes, count) == (there, buffers)
        add_lora(denoiser)
        adapter = [p for p in denoiser.parameters() if p.requires_grad]
        assert resident_bytes(denoiser, count, adapter) == (there, buffers)
        assert count == 1 or there + buffers < whole


def test_text_encoders_read_the_same(tiny_sdxl_folder: Path) -> None:
    plain, waiting = container_of(tiny_sdxl_folder), container_of(tiny_sdxl_folder)
    moved = [offload(getattr(waiting.pipeline, name)) for name in waiting.text_encoders]
    expected = plain.encode_prompts(["a red circle", "a square"])
    found = waiting.encode_prompts(["a red circle", "a square"])
    assert torch.equal(found.embeds, expected.embeds)
    assert all(each.num_copies for each in moved)


def test_weights_that_wait_can_be_read(tiny_sdxl_folder: Path) -> None:
    plain, waiting = container_of(tiny_sdxl_folder), container_of(tiny_sdxl_folder)
    BlockOffload(waiting.denoiser, CPU)
    outcome_of = waiting.denoiser.state_dict()
    assert all(torch.equal(outcome_of[k], v) for k, v in plain.denoiser.state_dict().items())


def test_a_few_blocks_lie_far_apart() -> None:
    blocks = [nn.Identity() for _ in range(10)]
    assert [blocks.index(each) for each in spread(blocks, 2)] == [4, 9]
    assert spread(blocks, None) == spread(blocks, 99) == blocks


def test_blocks_are_the_innermost_ones(tiny_sdxl_folder: Path) -> None:
    blocks = blocks_of(container_of(tiny_sdxl_folder).denoiser)
    assert {type(block).__name__ for block in blocks} == {"BasicTransformerBlock", "ResnetBlock2D"}
    inside = [id(each) for block in blocks for each in block.modules()]
    assert len(inside) == len(set(inside))
