"""A sampler's steps read the prompt once, and see what they would have seen anyway."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

from loba_tui.core.associate.containers.families import read_once
from loba_tui.core.associate.containers.families.sdxl import SDXLContainer
from loba_tui.core.associate.model_cache import ModelCache


@pytest.fixture
def container(tiny_sdxl_folder: Path) -> SDXLContainer:
    container = ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder))
    config = LoraConfig(target_modules=["to_k", "to_v"], init_lora_weights=False)
    container.denoiser.add_adapter(config)
    return container


def cross_layers(container: SDXLContainer) -> list[nn.Module]:
    modules = container.denoiser.named_modules()
    return [m for name, m in modules if name.endswith((".attn2.to_k", ".attn2.to_v"))]


@torch.no_grad()
def predictions(container: SDXLContainer) -> list[Tensor]:
    """Predict at two steps with one prompt, and once with another."""
    latents = torch.randn(2, *container.latent_shape(), generator=torch.Generator().manual_seed(0))
    first, second = (container.encode_prompts([text] * 2) for text in ("a circle", "a square"))
    asked = [(900, first), (500, first), (500, second)]
    return [container.predict(latents, torch.tensor(time), rows) for time, rows in asked]


def test_every_prediction_is_the_same_to_the_bit(
    container: SDXLContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = predictions(container)
    base = cross_layers(container)[0].base_layer
    calls = []
    base.register_forward_hook(lambda *_: calls.append(1))
    for most, num_calls in ((read_once._MOST_BYTES, 2), (0, 3)):
        monkeypatch.setattr(read_once, "_MOST_BYTES", most)
        with container.prompts_read_once():
            found = predictions(container)
        assert all(torch.equal(*each) for each in zip(found, plain, strict=True))
        assert len(calls) == num_calls
        calls.clear()
    assert not any("forward" in vars(layer) for layer in cross_layers(container))
    predictions(container)
    assert len(calls) == 3
