from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, VeraConfig, inject_adapter_in_model
from tiny_adapters import add_adapter, move_adapter
from torch import Tensor

from loba_tui.core.associate.containers.families.sdxl import SDXLContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.joined_tokens import note_joined_tokens
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.kinds import (
    adapted_module,
    kind_of,
    make_deterministic,
    tuner_layers,
)
from loba_tui.core.program.adapter_layers.strength import AdapterScale

ALL_LINEAR = ("cross_attention", "projection")
KINDS = {
    "lora": {"layers": ALL_LINEAR},
    "locon": {"layers": ("cross_attention", "convolution")},
    "loha": {"layers": (*ALL_LINEAR, "convolution")},
    "lokr": {"layers": (*ALL_LINEAR, "convolution"), "decompose_both": True},
    "dora": {"layers": (*ALL_LINEAR, "convolution")},
    "oft": {"layers": ALL_LINEAR},
}


@pytest.fixture(scope="module", params=KINDS)
def container(tiny_sdxl_folder: Path, request: pytest.FixtureRequest) -> SDXLContainer:
    container = ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder))
    add_adapter(container, request.param, KINDS[request.param])
    # A fresh adapter changes nothing; a trained one has moved in all of its parameters.
    move_adapter(container)
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
def test_each_row_sees_weights_moved_by_its_strength_towards_those_that_peft_merges(
    container: SDXLContainer,
    scale: AdapterScale,
    inputs: tuple[Tensor, Tensor, PromptEmbeds],
) -> None:
    """W + s·(W' − W) put into the layers one strength at a time, W' as PEFT itself merges it."""
    strengths = [-1.0, 0.5, 1.0, 2.0]
    with scale(torch.tensor(strengths)):
        together = container.predict(*inputs)
    latents, timesteps, embeds = inputs
    moves = []
    for _, layer in tuner_layers(container.denoiser, "default"):
        weight = layer.get_base_layer().weight
        before = weight.clone()
        layer.merge()
        moves.append((weight, before, weight - before))
        layer.merged_adapters.clear()
    assert moves
    for row, strength in enumerate(strengths):
        for weight, before, move in moves:
            weight.copy_(before + strength * move)
        one = slice(row, row + 1)
        with scale.base():
            alone = container.predict(latents[one], timesteps[one], embeds[row])
        torch.testing.assert_close(together[one], alone, rtol=1e-3, atol=1e-4)
    for weight, before, _ in moves:
        weight.copy_(before)


@torch.no_grad()
def test_strength_one_is_what_peft_itself_computes(
    container: SDXLContainer,
    scale: AdapterScale,
    inputs: tuple[Tensor, Tensor, PromptEmbeds],
) -> None:
    with scale(1.0):
        ours = container.predict(*inputs)
    scale.remove()
    torch.testing.assert_close(ours, container.predict(*inputs), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_plain_lora_follows_pefts_own_weights_too(
    container: SDXLContainer,
    scale: AdapterScale,
    inputs: tuple[Tensor, Tensor, PromptEmbeds],
) -> None:
    if kind_of(container.denoiser.peft_config["default"]) not in ("LoRA", "LoHa", "LoKr"):
        pytest.skip("PEFT gives these kinds no scale, or another meaning")
    with scale(-2.0):
        ours = container.predict(*inputs)
    scale.remove()
    container.denoiser.set_adapters("default", -2.0)
    theirs = container.predict(*inputs)
    container.denoiser.set_adapters("default", 1.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter_at_any_strength_but_zero(
    container: SDXLContainer,
    scale: AdapterScale,
    inputs: tuple[Tensor, Tensor, PromptEmbeds],
) -> None:
    with scale(torch.tensor([-1.0, 0.0, 1.0, 2.0])):
        container.predict(*inputs).square().mean().backward()
    for name, parameter in container.denoiser.named_parameters():
        if adapted_module(name) != name:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
    container.denoiser.zero_grad()
    with scale(0.0):
        container.predict(*inputs).square().mean().backward()
    for name, parameter in container.denoiser.named_parameters():
        if adapted_module(name) != name and parameter.grad is not None:
            assert not bool(parameter.grad.any()), name
    container.denoiser.zero_grad()


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
    with pytest.raises(RecipeError, match="no adapter named"):
        AdapterScale(torch.nn.Linear(2, 2))


def test_blocks_that_do_not_divide_a_layer_are_the_recipes_error(tiny_sdxl_folder: Path) -> None:
    container = ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder))
    config = SHIPPED.load("adapters", "oft")(container.adapter_targets(), rank=7)
    container.denoiser.add_adapter(config)
    with pytest.raises(RecipeError, match="blocks of 7 do not divide"):
        make_deterministic(container.denoiser, config)
    with pytest.raises(RecipeError, match="no alpha"):
        SHIPPED.load("adapters", "oft")(container.adapter_targets(), alpha=2.0)


def test_a_kind_that_cannot_be_exported_is_refused_before_training() -> None:
    with pytest.raises(RecipeError, match="VERA can be neither scaled nor exported"):
        kind_of(VeraConfig(r=4, target_modules=["to_q"]))


class Joined(torch.nn.Module):
    """Runs a linear layer on the tokens of all rows at once, as Z-Image's caption embedder."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(4, 6)

    def forward(self, rows: list[Tensor]) -> list[Tensor]:
        lengths = [len(row) for row in rows]
        return list(self.embed(torch.cat(rows)).split(lengths))


@torch.no_grad()
def test_rows_have_their_own_strength_where_their_tokens_are_joined() -> None:
    torch.manual_seed(0)
    model = Joined()
    note_joined_tokens(model, lambda rows: [len(row) for row in rows])
    inject_adapter_in_model(
        LoraConfig(r=2, target_modules=["embed"], init_lora_weights=False), model
    )
    rows, strengths = [torch.randn(n, 4) for n in (3, 5, 3, 5)], (2.0, -1.0)
    scale = AdapterScale(model)
    with scale(torch.tensor(strengths)):
        together = model(rows)
    for place, row in enumerate(rows):
        with scale(strengths[place % 2]):
            (alone,) = model([row])
        torch.testing.assert_close(together[place], alone)
