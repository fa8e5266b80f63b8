from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loba_tui.core.associate.containers.base import PromptEmbeds
from loba_tui.core.associate.containers.sdxl import SDXLContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_scale import AdapterScale
from loba_tui.core.program.adapters.locon import get_adapter


@pytest.fixture(scope="module")
def container(tiny_sdxl_folder: Path) -> SDXLContainer:
    container = ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder))
    torch.manual_seed(1)
    config = get_adapter(container.adapter_targets(), layers=("cross_attention", "convolution"))
    config.init_lora_weights = False  # a fresh LoRA has B = 0 and would change nothing
    container.denoiser.add_adapter(config)
    return container


@pytest.fixture
def scale(container: SDXLContainer) -> Iterator[AdapterScale]:
    scale = AdapterScale(container.denoiser)
    yield scale
    scale.remove()


@pytest.fixture
def inputs(container: SDXLContainer) -> tuple[Tensor, Tensor, PromptEmbeds]:
    latents = torch.randn(4, *container.latent_shape(), generator=torch.Generator().manual_seed(3))
    return latents, torch.tensor([10, 300, 600, 900]), container.empty_embeds().select([0] * 4)


@torch.no_grad()
def test_each_row_gets_the_strength_that_peft_itself_would_give(
    container: SDXLContainer,
    scale: AdapterScale,
    inputs: tuple[Tensor, Tensor, PromptEmbeds],
) -> None:
    strengths = [-2.0, 0.5, 1.0, 3.0]
    with scale(torch.tensor(strengths)):
        together = container.predict(*inputs)
    scale.remove()
    latents, timesteps, embeds = inputs
    for row, strength in enumerate(strengths):
        container.denoiser.set_adapters("default", strength)
        one = slice(row, row + 1)
        alone = container.predict(latents[one], timesteps[one], embeds[row])
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5)
    container.denoiser.set_adapters("default", 1.0)


@torch.no_grad()
def test_strength_zero_and_base_are_the_model_without_its_adapter(
    container: SDXLContainer,
    scale: AdapterScale,
    inputs: tuple[Tensor, Tensor, PromptEmbeds],
) -> None:
    with scale.base():
        base = container.predict(*inputs)
    container.denoiser.disable_adapters()
    oracle = container.predict(*inputs)
    container.denoiser.enable_adapters()
    with scale(0.0):
        zero = container.predict(*inputs)
    assert torch.equal(base, oracle)
    assert torch.equal(zero, oracle)
    assert not torch.allclose(container.predict(*inputs), oracle, atol=1e-3)


@torch.no_grad()
def test_guidance_halves_share_their_row_strengths(
    container: SDXLContainer,
    scale: AdapterScale,
    inputs: tuple[Tensor, Tensor, PromptEmbeds],
) -> None:
    latents, timesteps, embeds = (inputs[0][:2], inputs[1][:2], inputs[2].select([0, 1]))
    doubled = (latents.repeat(2, 1, 1, 1), timesteps.repeat(2), PromptEmbeds.cat([embeds, embeds]))
    with scale(torch.tensor([-1.0, 2.0])):
        once = container.predict(latents, timesteps, embeds)
        stacked = container.predict(*doubled)
    torch.testing.assert_close(stacked, torch.cat([once, once]), rtol=1e-4, atol=1e-5)


def test_leaving_the_block_restores_the_strength_before(
    container: SDXLContainer,
    scale: AdapterScale,
    inputs: tuple[Tensor, Tensor, PromptEmbeds],
) -> None:
    with torch.no_grad():
        plain = container.predict(*inputs)
        with scale(2.0), scale(-1.0):
            pass
        assert torch.equal(container.predict(*inputs), plain)


def test_a_model_without_an_adapter_is_an_error() -> None:
    with pytest.raises(RecipeError, match="no LoRA layer"):
        AdapterScale(torch.nn.Linear(2, 2))
