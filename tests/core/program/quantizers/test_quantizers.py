"""The shipped quantizers, each with the optional package that it needs; without it, they skip."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from program_runs import shape_slider
from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_shapes import bytes_of, open_shapes
from loba_tui.core.errors import ResourceError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.attach import attach_adapter
from loba_tui.core.program.pipeline_wrapper import PipelineWrapper, quantizer_of
from loba_tui.core.program.planning.network_costs import pack_shapes
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice

IMPORTED_AS = {"optimum-quanto": "optimum"}
NAMES = SHIPPED.names("quantizers")
LEAST_COSINE = {"bnb_nf4": 0.94}

pytestmark = pytest.mark.usefixtures("one_thread")


def package(name: str) -> str:
    needed = SHIPPED.describe("quantizers", name).constants["PACKAGE"]
    assert isinstance(needed, str)
    return needed


def is_here(name: str) -> bool:
    return find_spec(IMPORTED_AS.get(package(name), package(name))) is not None


here = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(not is_here(name), reason=f"{package(name)} is not installed"),
        )
        for name in NAMES
    ],
)


def recipe_of(name: str | None) -> Recipe:
    recipe = shape_slider(2, adapter={"name": "lora", "layers": ["self_attention"]})
    choice = None if name is None else Choice(name=name)
    base = recipe.base_model.model_copy(update={"quantize": choice, "dtype": "float32"})
    return recipe.model_copy(update={"base_model": base})


def container_of(name: str | None) -> ModelContainer:
    return PipelineWrapper.of(recipe_of(name).base_model, SHIPPED).load(with_text_encoders=False)


def gradient(name: str | None) -> Tensor:
    """Return the gradient of a trained adapter at a prediction far from its target."""
    container = container_of(name)
    attach_adapter(recipe_of(name), container, SHIPPED)
    trained = [p for p in container.denoiser.parameters() if p.requires_grad]
    source = torch.Generator().manual_seed(0)
    for parameter in trained:
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=source))
    latents = torch.randn(8, *container.latent_shape(), generator=source)
    wanted = torch.randn(latents.shape, generator=source)
    given = container.predict(latents, torch.arange(100, 900, 100), container.zero_embeds())
    gradients = torch.autograd.grad((given - wanted).square().mean(), trained)
    return torch.cat([each.flatten() for each in gradients]).double()


@pytest.fixture(scope="module")
def float_gradient() -> Tensor:
    return gradient(None)


@here
def test_the_adapters_gradient_is_that_of_the_float_base(name: str, float_gradient: Tensor) -> None:
    cosine = float(torch.cosine_similarity(gradient(name), float_gradient, dim=0))
    assert cosine >= LEAST_COSINE.get(name, 0.99)
    assert cosine < 1


@here
def test_the_plan_knows_the_bytes_of_the_quantised_denoiser(name: str) -> None:
    assert planned_bytes(name) == bytes_of(container_of(name).denoiser)


def planned_bytes(name: str) -> int:
    settings = recipe_of(name).base_model
    denoiser = open_shapes(settings.id, None, torch.float32).container.denoiser
    saved = pack_shapes(denoiser, settings, SHIPPED)
    assert saved > 0
    return bytes_of(denoiser)


@here
def test_a_weight_is_packed_and_unpacked_as_the_package_does(name: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(48, 80)
    quantizer = quantizer_of(Choice(name=name), SHIPPED)
    unpacked = quantizer.unpack(quantizer.pack(weight), weight.shape, torch.float32)
    torch.testing.assert_close(unpacked, of_package(name, weight), rtol=1e-5, atol=1e-6)


def of_package(name: str, weight: Tensor) -> Tensor:
    """Return a weight as the package's own layers have it."""
    if package(name) == "torchao":
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

        network = torch.nn.Sequential(torch.nn.Linear(80, 48, bias=False))
        network[0].weight.data.copy_(weight)
        config = Float8WeightOnlyConfig() if name == "torchao_fp8" else Int8WeightOnlyConfig()
        quantize_(network, config)
        return network[0].weight.dequantize()
    if name == "quanto_int8":
        from optimum.quanto import freeze, qint8, quantize

        network = torch.nn.Sequential(torch.nn.Linear(80, 48, bias=False))
        network[0].weight.data.copy_(weight)
        quantize(network, weights=qint8)
        freeze(network)
        return network[0].weight.dequantize()
    from bitsandbytes import functional

    if name == "bnb_int8":
        numbers, scale, _ = functional.int8_vectorwise_quant(weight.half())
        return functional.int8_vectorwise_dequant(numbers, scale)
    # QLoRA's formula itself: bitsandbytes' kernel for CPUs errs where a block spans two rows.
    code = functional.get_4bit_type("nf4", device="cpu", blocksize=64)
    blocks = weight.reshape(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks / largest)[..., None].sub(code).abs().argmin(-1)
    return (code[nearest] * largest).reshape(weight.shape)


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrapper = "loba_tui.core.program.pipeline_wrapper.library_versions"
    monkeypatch.setattr(wrapper, lambda names: dict.fromkeys(names))
    with pytest.raises(ResourceError, match="torchao_int8 needs the package torchao") as raised:
        container_of("torchao_int8")
    assert "pip install torchao" in str(raised.value.hint)


def test_a_plan_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = "loba_tui.core.program.pipeline_wrapper.library_versions"
    monkeypatch.setattr(wrapper, lambda names: dict.fromkeys(names))
    assert planned_bytes("bnb_nf4") < planned_bytes("bnb_int8")
