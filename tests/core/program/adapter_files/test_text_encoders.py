"""Text encoders' parts of an adapter: prompts at each scale are as merged encoders encode them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_adapters import fresh

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_files.read.layers import AdapterFile
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_files.text_encoders import ScaledEmbeddings, TextAdapters
from loba_tui.core.program.adapter_layers.added import host_named
from loba_tui.core.program.combine.attach import Part
from loba_tui.core.program.combine.merge import merge

LAYERS = ("text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.1.mlp.fc2")
PROMPT = "a red circle"


@pytest.fixture
def file(tiny_sdxl_folder: Path, tmp_path: Path) -> AdapterFile:
    pipeline, tensors = fresh(tiny_sdxl_folder).pipeline, {}
    generator = torch.Generator().manual_seed(0)
    targets = [("te1", pipeline.text_encoder, name) for name in LAYERS]
    targets += [("te2", pipeline.text_encoder_2, name) for name in (*LAYERS, "text_projection")]
    for prefix, encoder, name in targets:
        outputs, inputs = host_named(encoder, name).weight.shape
        key = f"lora_{prefix}_{name.replace('.', '_')}"
        tensors[f"{key}.lora_down.weight"] = torch.randn(2, inputs, generator=generator)
        tensors[f"{key}.lora_up.weight"] = torch.randn(outputs, 2, generator=generator) * 0.1
    unet = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors[f"{unet}.lora_down.weight"] = torch.randn(2, 112, generator=generator)
    tensors[f"{unet}.lora_up.weight"] = torch.randn(64, 2, generator=generator)
    save_file(tensors, tmp_path / "f.safetensors")
    return read_adapter_file(tmp_path / "f.safetensors")


def assert_close(one: PromptEmbeds, other: PromptEmbeds) -> None:
    torch.testing.assert_close(one.embeds, other.embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.pooled, other.pooled, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_each_scale_encodes_as_merged_encoders_do(file: AdapterFile, tiny_sdxl_folder: Path):
    container = fresh(tiny_sdxl_folder)
    base = {PROMPT: container.encode_prompts([PROMPT])}
    embeds = ScaledEmbeddings(base, TextAdapters(container, [(file, 0.5)]))

    for scale in (2.0, -1.0):
        merged = fresh(tiny_sdxl_folder)
        for component in ("text_encoder", "text_encoder_2"):
            for name, layer in file.of(component).items():
                weight = host_named(getattr(merged.pipeline, component), name).weight
                weight += 0.5 * scale * layer.weight.delta(weight)
        found = embeds.at(scale, [PROMPT])[PROMPT]
        assert_close(found, merged.encode_prompts([PROMPT]))
        assert float((found.embeds - base[PROMPT].embeds).abs().max()) > 1e-2

    assert embeds.at(0.0, [PROMPT])[PROMPT] is base[PROMPT]
    after = container.encode_prompts([PROMPT])
    assert torch.equal(after.embeds, base[PROMPT].embeds)  # nothing stays on the encoders


def test_an_encoder_that_it_does_not_fit_is_said_so(
    file: AdapterFile, tiny_sd_folder: Path, tiny_sdxl_folder: Path
):
    container = fresh(tiny_sd_folder)
    adapters = TextAdapters(container, [(file, 1.0)])
    with pytest.raises(RecipeError, match="does not fit the text encoders"):
        adapters.encode([PROMPT], 1.0)
    with pytest.raises(RecipeError, match="an adapter for SD-XL, and this model is an SD"):
        load_adapter(container, file.path)


def test_merging_takes_the_unet_alone_where_it_is_asked_for(file: AdapterFile):
    parts = [Part(file.path, 1.0)]
    with pytest.raises(RecipeError, match=r"also changes 5 layers of text encoders"):
        merge(parts)
    assert len(merge(parts, unet_only=True).layers) == 1
