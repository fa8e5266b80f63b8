"""Compiled blocks predict what they did, and are not compiled again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch._dynamo.utils import counters

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.kernels.compiling import compile_blocks, repeated_blocks

Case = tuple[int, Tensor | float | None, bool]
"""Rows, strengths (None is the base alone), and whether a backward pass follows."""

STEP: tuple[Case, ...] = ((4, None, False), (4, torch.tensor([1.0, -1.0, 2.0, -2.0]), True))
SAMPLING: Case = (4, 1.0, False)
OTHERS: tuple[Case, ...] = (
    (3, torch.tensor([1.0, -1.0, 0.5]), True),
    (3, None, False),
    (4, 1.0, True),
    (6, torch.tensor([-3.0, 0.0, 3.0]), False),
    (2, -2.0, False),
)


@pytest.fixture
def container(small_sdxl_folder: Path) -> Iterator[ModelContainer]:
    container = ModelCache("cpu", torch.float32).container(str(small_sdxl_folder))
    denoiser = container.denoiser
    denoiser.requires_grad_(False)
    layers = container.adapter_targets()["cross_attention"]
    denoiser.add_adapter(LoraConfig(r=2, lora_alpha=1, target_modules=layers))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in denoiser.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    torch._dynamo.reset()
    yield container
    torch._dynamo.reset()


@pytest.fixture
def scale(container: ModelContainer) -> AdapterScale:
    return AdapterScale(container.denoiser)


def outcome(container: ModelContainer, scale: AdapterScale, case: Case) -> list[Tensor]:
    """Return what is predicted, and the gradients of all that trains."""
    num_rows, strengths, with_grad = case
    generator = torch.Generator().manual_seed(num_rows)
    latents = torch.randn(num_rows, *container.latent_shape(), generator=generator)
    inputs = (latents, torch.full((num_rows,), 500), container.empty_embeds())
    trained = [p for p in container.denoiser.parameters() if p.requires_grad]
    with torch.set_grad_enabled(with_grad):
        if strengths is None:
            with scale.base():
                return [container.predict(*inputs)]
        scale.set(strengths)
        predicted = container.predict(*inputs)
    if not with_grad:
        return [predicted]
    return [predicted.detach(), *torch.autograd.grad(predicted.square().mean(), trained)]


def test_no_strength_batch_or_picture_compiles_again(
    container: ModelContainer, scale: AdapterScale
) -> None:
    cases = [*STEP, SAMPLING, *OTHERS]
    expected = [outcome(container, scale, case) for case in cases]
    compile_blocks(container.denoiser, scale, "blocks", backend="eager")

    first = [outcome(container, scale, case) for case in cases[:3]]
    compiled = counters["stats"]["unique_graphs"]
    later = [outcome(container, scale, case) for case in cases[3:]]

    assert compiled > 0
    assert counters["stats"]["unique_graphs"] == compiled
    assert not counters["graph_break"]
    for ours, theirs in zip([*first, *later], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled_kernels_compute_the_same(container: ModelContainer, scale: AdapterScale) -> None:
    expected = [outcome(container, scale, case) for case in STEP]
    # One block is compiled as hundreds are, and takes a minute less.
    for block in list(repeated_blocks(container.denoiser))[1:]:
        block.__class__ = type("Other", (type(block),), {})
    compile_blocks(container.denoiser, scale, "blocks")
    for case, theirs in zip(STEP, expected, strict=True):
        ours = outcome(container, scale, case)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_is_scaled_otherwise_is_refused(small_sdxl_folder: Path) -> None:
    container = ModelCache("cpu", torch.float32).container(str(small_sdxl_folder))
    layers = container.adapter_targets()["cross_attention"]
    container.denoiser.add_adapter(LoraConfig(r=2, use_dora=True, target_modules=layers))
    with pytest.raises(RecipeError, match="only LoRA and LoCon can be compiled"):
        compile_blocks(container.denoiser, AdapterScale(container.denoiser), "blocks")


def test_a_network_without_repeated_blocks_is_refused(scale: AdapterScale) -> None:
    with pytest.raises(RecipeError, match="Sequential repeats no block"):
        compile_blocks(nn.Sequential(nn.Linear(2, 2)), scale, "graphs")
