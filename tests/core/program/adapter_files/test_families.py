"""Labels of files, held against the rules by which A1111 and sd-scripts tell families apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loba_tui.core.adapter_keys.transformers.families import TRANSFORMERS, TransformerFamily
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_files.comfy import other_file
from loba_tui.core.program.adapter_files.families import (
    family_of,
    family_of_file,
    of_transformer,
)
from loba_tui.core.program.adapter_files.formats import (
    LoraLayer,
    config_of,
    diffusers_file,
    num_inputs,
)
from loba_tui.core.program.adapter_files.kohya import kohya_file

COLUMNS = {
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
}
SDXL: dict[str, Any] = {"addition_embed_type": "text_time", **COLUMNS}
PLAIN: dict[str, Any] = {"addition_embed_type": None, "sample_size": 64}
CASES = {
    "sdxl": ({**SDXL, "cross_attention_dim": 2048}, "SDXL", "sdxl_base_v1-0", 2048),
    "sd1": ({**PLAIN, "cross_attention_dim": 768}, "SD1", "sd_v1", 768),
    "sd2": ({**PLAIN, "cross_attention_dim": 1024}, "SD2", "sd_v2", 1024),
    "sd2-768": (
        {**PLAIN, "cross_attention_dim": 1024, "sample_size": 96}, "SD2", "sd_v2_v", 1024
    ),
}  # fmt: skip


def label_of_a1111(metadata: dict[str, str]) -> str:
    """SD-XL by the start of a name, SD 2.x by a flag, and every other file with metadata SD 1.x."""
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    if metadata.get("ss_v2", "") == "True":
        return "SD2"
    return "SD1" if metadata else "unknown"


def layers(context: int, block: int = 0) -> dict[str, LoraLayer]:
    name = f"down_blocks.{block}.attentions.0.transformer_blocks.0.attn2.to_k"
    return {name: LoraLayer(torch.ones(4, context), torch.ones(8, 4), 1.0)}


@pytest.mark.parametrize("case", CASES)
def test_both_files_are_labelled_as_what_they_are_for(case: str) -> None:
    unet_config, label, version, context = CASES[case]
    family, made = family_of(unet_config), layers(context, int(case == "sdxl"))
    config = {"peft_type": "LORA", **config_of(made), "use_rslora": False}
    for _, metadata in (
        diffusers_file(made, config, {}, family),
        kohya_file(made, {}, family),
    ):
        assert label_of_a1111(metadata) == label
        assert metadata["ss_base_model_version"] == version
        assert metadata["modelspec.architecture"] == f"{family.architecture}/lora"
        again = family_of_file(metadata, {})
        assert again.base_version == version


@pytest.mark.parametrize(
    ("metadata", "context", "block", "version"),
    [
        ({}, 768, 0, "sd_v1"),
        ({}, 1024, 0, "sd_v2"),
        ({}, 2048, 1, "sdxl_base_v1-0"),
        ({"ss_v2": "True"}, 768, 0, "sd_v2"),
        ({"ss_base_model_version": "sd_v2_v"}, 768, 0, "sd_v2_v"),
    ],
)
def test_a_file_of_another_tool_is_told_by_what_it_says_and_adapts(
    metadata: dict[str, str], context: int, block: int, version: str
) -> None:
    inputs = {name: layer.down.shape[1] for name, layer in layers(context, block).items()}
    assert family_of_file(metadata, inputs).base_version == version


@pytest.mark.parametrize("family", TRANSFORMERS, ids=lambda family: family.name)
def test_a_transformers_files_say_which_it_is(family: TransformerFamily) -> None:
    named = of_transformer(family)
    name = "transformer_blocks.0.attn.to_q"
    module = "layers.0.attention.to_q" if family.name == "Z-Image" else name
    made = {module: LoraLayer(torch.ones(4, 32), torch.ones(32, 4), 2.0)}
    config = {"peft_type": "LORA", **config_of(made), "use_rslora": False}
    for _, metadata in (diffusers_file(made, config, {}, named), other_file(made, {}, named)):
        assert metadata["modelspec.architecture"] == f"{family.architecture}/lora"
        assert "ss_v2" not in metadata
        assert family_of_file(metadata, num_inputs(made)) == named


@pytest.mark.parametrize(
    ("class_name", "config", "architecture", "version"),
    [
        ("FluxTransformer2DModel", {"guidance_embeds": True}, "flux-1-dev", "flux1"),
        ("FluxTransformer2DModel", {"guidance_embeds": False}, "flux-1-schnell", "flux1"),
        ("Flux2Transformer2DModel", {"num_attention_heads": 24, "attention_head_dim": 128},
         "flux.2-klein-4b", "flux2_klein_4b"),
        ("SD3Transformer2DModel", {"num_attention_heads": 38, "attention_head_dim": 64},
         "stable-diffusion-3-5-large", "sd3"),
        ("SD3Transformer2DModel", {"dual_attention_layers": (0, 1)},
         "stable-diffusion-3-5-medium", "sd3"),
        ("ZImageTransformer2DModel", {}, "z-image", "zimage"),
    ],
)  # fmt: skip
def test_the_size_of_a_model_is_named(
    class_name: str, config: dict[str, Any], architecture: str, version: str
) -> None:
    family = family_of({"_class_name": class_name, **config})
    assert (family.architecture, family.base_version) == (architecture, version)
    assert (family.prefix, family.other_form) == ("transformer.", "comfy")


def test_a_file_that_several_transformers_can_have_is_not_labelled() -> None:
    with pytest.raises(RecipeError, match=r"FLUX\.1, FLUX\.2, Qwen-Image, SD 3; nothing in it"):
        family_of_file({}, {"transformer_blocks.0.attn.to_q": 3072})
    told = {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    family = family_of_file(told, {"layers.0.attention.to_q": 32})
    assert family.architecture == "z-image"
