"""Shipped configurations of the models with a transformer, against their published counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from loba_tui.core.associate.containers.configured import configured_network, read_config
from loba_tui.core.associate.model_shapes import open_shapes
from loba_tui.core.associate.sources.shipped import KNOWN, shipped_folder

TRANSFORMERS = [model for model in KNOWN if (shipped_folder(model) / "transformer").is_dir()]
COUNTS = {
    "Tongyi-MAI/Z-Image": 6_154_908_736,
    "Tongyi-MAI/Z-Image-Turbo": 6_154_908_736,
    "black-forest-labs/FLUX.1-dev": 11_901_408_320,
    "black-forest-labs/FLUX.1-schnell": 11_891_178_560,
    "black-forest-labs/FLUX.2-klein-4B": 3_875_544_576,
    "black-forest-labs/FLUX.2-klein-base-4B": 3_875_544_576,
    "Qwen/Qwen-Image": 20_430_401_088,
    "stabilityai/stable-diffusion-3.5-medium": 2_469_663_936,
    "stabilityai/stable-diffusion-3.5-large": 8_146_280_768,
}
"""Numbers in each transformer, buffers that its file holds included."""
VAES = {
    "AutoencoderKL": 83_819_683,
    "AutoencoderKLFlux2": 84_046_115,
    "AutoencoderKLQwenImage": 126_892_531,
}
ENCODERS = {
    "CLIPTextModel": {123_060_480},
    "CLIPTextModelWithProjection": {123_650_304, 694_659_840},
    "Qwen2_5_VLForConditionalGeneration": {8_292_166_656},
    "Qwen3ForCausalLM": {4_022_468_096},
    "Qwen3Model": {4_022_468_096},
    "T5EncoderModel": {4_762_310_656},
}


SIZES = {
    "Qwen/Qwen-Image": ((16, 128, 128), 3584),
    "black-forest-labs/FLUX.2-klein-4B": ((32, 128, 128), 7680),
    "black-forest-labs/FLUX.2-klein-base-4B": ((32, 128, 128), 7680),
    "Tongyi-MAI/Z-Image": ((16, 128, 128), 2560),
    "Tongyi-MAI/Z-Image-Turbo": ((16, 128, 128), 2560),
}
"""Latents of 1024 × 1024 pixels and the width of a prompt's states; of the others as of FLUX.1."""
OF_FLUX = ((16, 128, 128), 4096)


def counted(network: nn.Module) -> int:
    """Return the numbers that a network's file holds."""
    kept = network.state_dict()
    buffers = sum(b.numel() for name, b in network.named_buffers() if name in kept)
    return sum(p.numel() for p in network.parameters()) + buffers


def test_each_transformer_s_count_is_known():
    assert set(TRANSFORMERS) == set(COUNTS)


@pytest.mark.parametrize("model", TRANSFORMERS)
def test_the_networks_are_of_the_published_sizes(model: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    index = read_config(shipped_folder(model) / "model_index.json")

    shapes = open_shapes(model, None, torch.bfloat16)

    assert shapes.origin == "shipped"
    modules = shapes.modules()
    assert counted(modules["transformer"]) == COUNTS[model]
    vae = sum(p.numel() for p in modules["vae"].parameters())
    assert vae == VAES[index["vae"][1]]
    for name in [name for name in index if name.startswith("text_encoder")]:
        encoder = sum(p.numel() for p in modules[name].parameters())
        assert encoder in ENCODERS[index[name][1]]
    container = shapes.container
    latents, width = SIZES.get(model, OF_FLUX)
    assert (container.resolution, container.latent_shape()) == (1024, latents)
    assert container.zero_embeds().embeds.shape[2] == width


@pytest.mark.parametrize("model", TRANSFORMERS)
def test_the_configurations_have_nothing_that_their_classes_do_not_know(model: str):
    folder = shipped_folder(model)
    index = read_config(folder / "model_index.json")
    for name in ("transformer", "vae"):
        with torch.device("meta"):
            network = configured_network(folder / name, *index[name])
        config = read_config(folder / name / "config.json")
        unknown = [key for key in config if key not in network.config]
        assert not unknown
        assert network.config["_class_name"] == index[name][1] == config["_class_name"]
