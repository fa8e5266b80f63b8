"""Names of transformers' layers, against diffusers' own conversion of their checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils
from tiny_transformers import TINY, as_original
from torch import Tensor

from loba_tui.core.adapter_keys.reading import read_keys
from loba_tui.core.adapter_keys.transformers.families import TRANSFORMERS
from loba_tui.core.adapter_keys.transformers.flux import FLUX_1

CONVERTERS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "Z-Image": single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers,
    "FLUX.2": single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers,
    "SD 3": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
}
LAYOUTS = {family.name: family.layout for family in TRANSFORMERS}


@pytest.mark.parametrize("name", CONVERTERS)
def test_the_first_implementations_names_are_those_that_diffusers_converts(name: str) -> None:
    model = TINY[name].made()
    native = {k.removeprefix("model.diffusion_model."): v for k, v in as_original(model).items()}
    converted = CONVERTERS[name](native)
    state = model.state_dict()
    assert converted.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(converted[key], tensor), key


def test_flux_1_has_the_rows_that_diffusers_gives_each_module() -> None:
    # Its converter knows one width, 3072; a column is enough to see which row goes where.
    rows = {"linear1": 7 * 3072, "img_attn.qkv": 3 * 3072, "txt_attn.qkv": 3 * 3072}
    model = TINY["FLUX.1"].made()
    native = {}
    for key, tensor in as_original(model).items():
        name = key.removeprefix("model.diffusion_model.")
        module = name.removesuffix(".weight").removesuffix(".bias").partition("blocks.")[2][2:]
        number = rows.get(module)
        native[name] = tensor if number is None else torch.arange(number)[:, None]
    for key, tensor in single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(
        native
    ).items():
        module = key.rpartition(".")[0]
        if "norm" in key:
            continue
        original = FLUX_1.original(module)
        number = rows.get(original.name.partition("blocks.")[2][2:])
        if number is not None:
            ((first, end),) = original.spans(number, 1)
            assert tensor.flatten().tolist() == list(range(first, end)), key


@pytest.mark.parametrize("name", TINY)
def test_every_layer_comes_back_from_either_naming(name: str) -> None:
    layout = LAYOUTS[name]
    for module, layer in TINY[name].made().named_modules():
        if not isinstance(layer, torch.nn.Linear):
            continue
        original = layout.original(module)
        for spelled in (module, module.replace(".", "_")):
            assert layout.modules(spelled) == ((module, None),)
        for spelled in (original.name, original.name.replace(".", "_")):
            found = dict(layout.modules(spelled))
            assert module in found
            if original.name != module and found[module] is not None:
                assert found[module].share == original.share


def keys_of(*names: str, rows: int = 96, columns: int = 32, rank: int = 4) -> dict[str, Any]:
    header = {}
    for name in names:
        header[f"{name}.lora_down.weight"] = {"dtype": "F32", "shape": [rank, columns]}
        header[f"{name}.lora_up.weight"] = {"dtype": "F32", "shape": [rows, rank]}
        header[f"{name}.alpha"] = {"dtype": "F32", "shape": []}
    return header


QKV = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


@pytest.mark.parametrize(
    ("key", "family", "modules"),
    [
        ("diffusion_model.layers.3.attention.to_q", "Z-Image", ["layers.3.attention.to_q"]),
        ("lora_unet_layers_0_attention_to_q", "Z-Image", ["layers.0.attention.to_q"]),
        (
            "lora_unet_context_refiner_1_attention_qkv",
            "Z-Image",
            [f"context_refiner.1.attention.{x}" for x in QKV],
        ),
        ("diffusion_model.cap_embedder.1", "Z-Image", ["cap_embedder.1"]),
        ("transformer.all_final_layer.2-1.linear", "Z-Image", ["all_final_layer.2-1.linear"]),
        ("lycoris_layers_0_feed_forward_w1", "Z-Image", ["layers.0.feed_forward.w1"]),
        (
            "lora_unet_double_blocks_7_txt_attn_qkv",
            "FLUX.1 or FLUX.2",
            [f"transformer_blocks.7.attn.{x}" for x in ADDED],
        ),
        (
            "lora_unet_double_blocks_7_img_mod_lin",
            "FLUX.1",
            ["transformer_blocks.7.norm1.linear"],
        ),
        (
            "lora_transformer_single_transformer_blocks_12_proj_mlp",
            "FLUX.1",
            ["single_transformer_blocks.12.proj_mlp"],
        ),
        (
            "base_model.model.single_transformer_blocks.2.attn.to_qkv_mlp_proj",
            "FLUX.2",
            ["single_transformer_blocks.2.attn.to_qkv_mlp_proj"],
        ),
        (
            "diffusion_model.double_stream_modulation_img.lin",
            "FLUX.2",
            ["double_stream_modulation_img.linear"],
        ),
        (
            "lora_unet_transformer_blocks_3_img_mlp_net_0_proj",
            "Qwen-Image",
            ["transformer_blocks.3.img_mlp.net.0.proj"],
        ),
        ("transformer_blocks.3.txt_mod.1", "Qwen-Image", ["transformer_blocks.3.txt_mod.1"]),
        (
            "lora_unet_joint_blocks_5_context_block_attn_qkv",
            "SD 3",
            [f"transformer_blocks.5.attn.{x}" for x in ADDED],
        ),
        (
            "transformer.transformer_blocks.0.attn2.to_q",
            "SD 3",
            ["transformer_blocks.0.attn2.to_q"],
        ),
    ],
)
def test_other_tools_names_are_read(key: str, family: str, modules: list[str]) -> None:
    found = read_keys(keys_of(key), {})
    assert found.faults == ()
    assert found.unused == ()
    assert found.family.name == family
    assert found.family.is_supported
    assert [layer.module for layer in found.layers] == modules
    assert {layer.component for layer in found.layers} == {"transformer"}


@pytest.mark.parametrize(
    ("rows", "columns", "family"),
    [(7 * 32, 32, "FLUX.1"), (9 * 32, 32, "FLUX.2")],
)
def test_the_fluxes_are_told_apart_by_their_sizes(rows: int, columns: int, family: str) -> None:
    found = read_keys(keys_of("lora_unet_single_blocks_0_linear1", rows=rows, columns=columns), {})
    assert found.family.name == family


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({}, "FLUX.1 or FLUX.2 or Qwen-Image or SD 3"),
        ({"modelspec.architecture": "Qwen-Image/lora"}, "Qwen-Image"),
        ({"ss_base_model_version": "flux2_klein_4b"}, "FLUX.2"),
        ({"modelspec.architecture": "Flux.1-dev/lora"}, "FLUX.1"),
        ({"modelspec.architecture": "stable-diffusion-v3.5-large/lora"}, "SD 3"),
    ],
)
def test_what_names_do_not_tell_metadata_does(metadata: dict[str, str], family: str) -> None:
    found = read_keys(keys_of("transformer.transformer_blocks.0.attn.to_q"), metadata)
    assert found.family.name == family
    wide = read_keys(keys_of("transformer.transformer_blocks.0.attn.to_q", columns=1536), {})
    assert wide.family.name == "SD 3"


@pytest.mark.parametrize(
    ("key", "metadata"),
    [
        ("lora_unet_layers_0_attention_qkv", {"ss_base_model_version": "lumina2"}),
        ("lora_unet_double_blocks_0_img_attn_qkv", {"modelspec.architecture": "chroma/lora"}),
    ],
)
def test_another_model_with_such_names_is_none_of_these(key: str, metadata: Any) -> None:
    found = read_keys(keys_of(key), metadata)
    assert found.layers == ()
    assert not found.family.is_supported


def test_a_transformers_layer_after_unet_is_not_used_in_silence() -> None:
    found = read_keys(keys_of("unet.layers.0.attention.to_q"), {})
    assert found.layers == ()
    assert "a transformer's layer after unet." in found.unused_lines()[0]


def test_one_layer_by_two_names_is_a_fault() -> None:
    keys = keys_of("diffusion_model.layers.0.attention.qkv") | keys_of(
        "transformer.layers.0.attention.to_k", rows=32
    )
    assert read_keys(keys, {}).faults == ("layers.0.attention.to_k is there under two names",)
