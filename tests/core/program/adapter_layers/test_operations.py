"""Operations of a forward pass at SD-XL's size, which must not grow: a GPU waits for each."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch.utils._python_dispatch import TorchDispatchMode

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.model_shapes import open_shapes
from loba_tui.core.program.adapter_layers.strength import AdapterScale

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
ROWS = 2


class Operations(TorchDispatchMode):
    """Counts operations that compute or copy; views cost a GPU nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name != "_unsafe_view":
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def container() -> ModelContainer:
    container = open_shapes(SDXL, None, torch.float32).container
    operations(container)  # in which the sizes that it is told are sent to the device
    return container


@pytest.fixture(scope="module")
def plain(container: ModelContainer) -> Counter[str]:
    return operations(container)


@pytest.fixture(scope="module")
def scale(container: ModelContainer, plain: Counter[str]) -> Iterator[AdapterScale]:
    denoiser = container.denoiser
    denoiser.requires_grad_(False)
    layers = container.adapter_targets()["cross_attention"]
    denoiser.add_adapter(LoraConfig(r=4, lora_alpha=1, target_modules=layers))
    scale = AdapterScale(denoiser)
    yield scale
    scale.remove()


@pytest.fixture(scope="module")
def without(container: ModelContainer, scale: AdapterScale) -> Counter[str]:
    with scale.base():
        return operations(container)


@torch.no_grad()
def operations(container: ModelContainer) -> Counter[str]:
    latents = torch.zeros(ROWS, *container.latent_shape(512), device="meta")
    states = torch.zeros(ROWS, 77, 2048, device="meta")
    embeds = PromptEmbeds(states, torch.zeros(ROWS, 1280, device="meta"))
    with Operations() as counted:
        container.predict(latents, torch.zeros(ROWS, device="meta"), embeds)
    return counted.counts


def test_an_adapter_that_is_off_costs_nothing(plain: Counter[str], without: Counter[str]) -> None:
    assert without == plain
    assert without.total() <= 2974


def test_an_exact_adapter_adds_two_products_a_factor_and_a_sum_a_layer(
    container: ModelContainer, scale: AdapterScale, without: Counter[str]
) -> None:
    scale.set(1.0)
    assert operations(container) - without == Counter(mm=560, mul=280, add=280)


def test_strengths_that_differ_cost_no_more_a_layer(
    container: ModelContainer, scale: AdapterScale
) -> None:
    scale.set(1.0)
    alike = operations(container)
    scale.set(torch.tensor([1.0, -1.0]))
    added = operations(container) - alike
    assert added == Counter(mul=1, repeat=1, _to_copy=1), "they are laid out for all layers at once"


def test_a_fast_adapter_adds_less_than_a_seventh(
    container: ModelContainer, scale: AdapterScale, without: Counter[str]
) -> None:
    scale.multipliers.is_fast = True
    scale.set(1.0)
    try:
        operations(container)  # in which it sees who reads the prompt
        total = operations(container).total()
    finally:
        scale.multipliers.is_fast = False
    assert total / without.total() < 1.15


def test_factors_are_cast_once_for_all_layers() -> None:
    half = open_shapes(SDXL, None, torch.bfloat16).container
    half.denoiser.requires_grad_(False)
    layers = half.adapter_targets()["cross_attention"]
    half.denoiser.add_adapter(LoraConfig(r=4, lora_alpha=1, target_modules=layers))
    for name, parameter in half.denoiser.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    with AdapterScale(half.denoiser).base():
        operations(half)
        without = operations(half)
    added = operations(half) - without
    assert (added["_to_copy"], added["cat"]) == (1, 1)
