"""The books of allocations on shapes equal those of real tensors, byte for byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.associate.model_shapes import open_shapes, parameters_of
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.attach import attach_adapter
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.planning.simulation import Allocations, Cost, RealDeviceRules, measure
from loba_tui.core.recipe.schema import AdapterSection, BaseModelSection, Recipe
from loba_tui.core.recipe.sections.method import MethodSection

MODEL = "builtin:shapes-xl"
ROWS = 3
RECIPE = Recipe(
    version=1,
    base_model=BaseModelSection(id=MODEL),
    method=MethodSection(name="text_slider"),
    adapter=AdapterSection(name="locon"),
)


pytestmark = pytest.mark.usefixtures("one_thread")


def cost_of(
    container: ModelContainer,
    *,
    with_grad: bool,
    checkpointing: bool,
    rules: RealDeviceRules | None,
    autocast: torch.dtype | None = None,
) -> Cost:
    attach_adapter(RECIPE, container, plugins=SHIPPED)
    scale, device, denoiser = AdapterScale(container.denoiser), container.device, container.denoiser
    scale.set(torch.full((ROWS,), 0.5, device=device))
    if checkpointing:
        denoiser.enable_gradient_checkpointing(*([rules.checkpoint] if rules else []))
    denoiser.train()
    rows = container.empty_embeds().select([0] * ROWS)  # and so no copy to a device is counted

    def forward() -> Tensor:
        with torch.autocast("cpu", autocast, enabled=autocast is not None and rules is None):
            return container.predict(
                torch.zeros((ROWS, *container.latent_shape()), device=device),
                torch.full((ROWS,), 500, device=device),
                rows,
            )

    present = [*denoiser.parameters(), *denoiser.buffers()]
    return measure(forward, with_grad=with_grad, rules=rules, present=present)


def assert_alike(simulated: Cost, measured: Cost) -> None:
    # The sizes that SD-XL is told are sent to a device once, which shapes are on and real ones not.
    assert 0 <= simulated.operators - measured.operators <= 1
    assert replace(simulated, operators=measured.operators) == measured


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("with_grad", [False, True])
def test_shapes_cost_what_real_tensors_cost(with_grad: bool, checkpointing: bool):
    asked = {"with_grad": with_grad, "checkpointing": checkpointing}
    shapes = open_shapes(MODEL, None, torch.float32).container
    real = ModelCache("cpu", "float32").container(MODEL)

    assert_alike(
        cost_of(shapes, **asked, rules=RealDeviceRules()), cost_of(real, **asked, rules=None)
    )


def test_shapes_keep_what_autocast_keeps():
    shapes = open_shapes(MODEL, None, torch.bfloat16).container
    real = ModelCache("cpu", "bfloat16").container(MODEL)
    rules = RealDeviceRules(autocast=torch.bfloat16)

    simulated = cost_of(shapes, with_grad=True, checkpointing=False, rules=rules)
    measured = cost_of(
        real, with_grad=True, checkpointing=False, rules=None, autocast=torch.bfloat16
    )

    assert simulated.kept_bytes == pytest.approx(measured.kept_bytes, rel=0.01)
    assert simulated.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.01)
    assert simulated.flops == measured.flops


def test_kept_bytes_are_those_of_the_saved_tensors():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 4))
    inputs = torch.randn(5, 8)
    saved: dict[int, int] = {}
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = network(inputs)
        expected = sum(saved.values()) - inputs.untyped_storage().nbytes()

    cost = measure(
        lambda: network(inputs),
        with_grad=True,
        rules=None,
        present=[*network.parameters(), inputs],
    )
    assert cost.kept_bytes == expected + output.untyped_storage().nbytes()


def test_allocations_forget_what_is_freed():
    with Allocations() as books:
        first = torch.zeros(1000, device="meta")
        second = first + 1
        assert books.live_bytes == 8000
        del first
        assert books.live_bytes == 4000
        second.add_(1)
        view = second[:10]
        assert books.live_bytes == 4000
        del second
        assert books.live_bytes == 4000, "a view keeps its storage"
        del view
    assert (books.live_bytes, books.peak_bytes) == (0, 8000)


def test_fused_attention_does_not_hold_its_scores():
    def attention() -> Tensor:
        query, key, value = (
            torch.zeros((1, 2, 256, 32), device="meta", requires_grad=True) for _ in range(3)
        )
        return functional.scaled_dot_product_attention(query, key, value)

    fused = measure(attention, with_grad=True, rules=RealDeviceRules())
    math = measure(attention, with_grad=True, rules=RealDeviceRules(fused=False))

    scores = 4 * 2 * 256 * 256
    assert fused.kept_bytes < scores
    assert math.kept_bytes > scores


def test_cuda_autocast_raises_norms_to_float32():
    def normed() -> Tensor:
        inputs = torch.zeros((2, 8, 4), dtype=torch.bfloat16, device="meta")
        return functional.group_norm(inputs, 2)

    rules = {"autocast": torch.bfloat16}
    with RealDeviceRules(**rules, device_type="cuda"):
        assert normed().dtype == torch.float32
    with RealDeviceRules(**rules, device_type="cpu"):
        assert normed().dtype == torch.bfloat16


def test_sdxl_is_known_without_weights_or_hub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shapes = open_shapes("stabilityai/stable-diffusion-xl-base-1.0", None, torch.bfloat16)

    counted = {name: parameters_of(module) for name, module in shapes.modules().items()}

    assert counted == {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    }
    assert all(p.is_meta for module in shapes.modules().values() for p in module.parameters())
    assert shapes.container.resolution == 1024


def test_sd_1_5_is_known_too():
    shapes = open_shapes("stable-diffusion-v1-5/stable-diffusion-v1-5", None, torch.float16)

    counted = {name: parameters_of(module) for name, module in shapes.modules().items()}

    assert counted == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
    assert (shapes.origin, shapes.container.resolution) == ("shipped", 512)


@pytest.mark.parametrize("with_grad", [False, True])
def test_shapes_of_sd_cost_what_its_real_tensors_cost(with_grad: bool, tiny_sd_folder: Path):
    asked = {"with_grad": with_grad, "checkpointing": False}
    shapes = open_shapes(str(tiny_sd_folder), None, torch.float32).container
    real = ModelCache("cpu", "float32").container(str(tiny_sd_folder))

    assert_alike(
        cost_of(shapes, **asked, rules=RealDeviceRules()), cost_of(real, **asked, rules=None)
    )


def test_an_unknown_hub_model_is_said_to_be_assumed():
    assert open_shapes("somebody/some-xl", None, torch.float16).origin == "assumed"
