"""Adapters of every kind in every form, read back by the tools that the form is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from ldm_topology import Topology, topology
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_adapters import add_moved_adapter
from tool_readers import a1111, comfyui, lycoris, sd_scripts
from torch import Tensor

from loba_tui.core.errors import NumericsError
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import write_adapter
from loba_tui.core.program.adapter_files.file import read_file
from loba_tui.core.program.adapter_files.losses import Losses
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_layers.kinds import (
    tuner_layers,
)
from loba_tui.core.program.exporting.forms import Wanted, as_lora, write_form

FEW = {
    "sdxl": {
        "cross_attention": ["mid_block.attentions.0.transformer_blocks.9.attn2.to_k"],
        "projection": ["mid_block.attentions.0.proj_in"],
        "convolution": ["mid_block.resnets.0.conv1", "up_blocks.0.resnets.0.conv_shortcut"],
    },
    "sd1": {
        "cross_attention": ["mid_block.attentions.0.transformer_blocks.0.attn2.to_k"],
        "projection": ["mid_block.attentions.0.proj_in"],
        "convolution": ["down_blocks.0.downsamplers.0.conv"],
    },
}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"alpha": 3.0, "layers": ["cross_attention", "projection"]},
    "locon": {"alpha": 3.0, "layers": ["cross_attention", "projection", "convolution"]},
    "loha": {"alpha": 3.0, "layers": ["cross_attention", "projection", "convolution"]},
    "lokr": {"alpha": 3.0, "rank": 2, "layers": ["cross_attention", "projection", "convolution"]},
}


def no_progress(done: int, total: int) -> None:
    assert done <= total


@pytest.fixture(
    scope="module", params=[(family, kind) for family in FEW for kind in KINDS], ids="-".join
)
def made(request: Any, tmp_path_factory: Any) -> tuple[Topology, Path, dict[str, Tensor]]:
    family, kind = request.param
    owner = topology(family)
    config = SHIPPED.load("adapters", kind)(FEW[family], **KINDS[kind])
    add_moved_adapter(owner.unet, config)
    truth = {
        name: layer.get_delta_weight("default").detach()
        for name, layer in tuner_layers(owner.unet, "default")
    }
    folder = tmp_path_factory.mktemp("-".join(request.param))
    write_adapter(owner.unet, OwnedFolder(folder), metadata={"loba.recipe": "x"})
    return topology(family), folder / "adapter.kohya.safetensors", truth


@pytest.mark.parametrize("form", ["kohya", "comfy"])
def test_the_form_for_kohyas_tools_is_exact_in_all_of_them(
    made: Any, form: str, tmp_path: Path
) -> None:
    where, file, truth = made
    wanted = Wanted(form, strength=-0.5)
    read = read_adapter_file(file)
    parts = as_lora(read, wanted, no_progress)
    assert Losses.of(parts.losses).share == 0
    written, left_out = write_form(parts, read.metadata, wanted, tmp_path / "out.safetensors")
    assert left_out == []
    for reader in (sd_scripts, comfyui, a1111, lycoris):
        reading = reader(load_file(written.path), where, 1.0)
        assert reading.unused == set()
        assert reading.changes.keys() == truth.keys()
        for name, change in reading.changes.items():
            assert float((change + 0.5 * truth[name]).abs().max()) <= 1e-6
    _, metadata = read_file(written.path)
    assert metadata["loba.recipe"] == "x"
    assert "loba.approximation" not in metadata


def test_diffusers_and_peft_load_theirs(made: Any, tmp_path: Path) -> None:
    where, file, truth = made
    read = read_adapter_file(file)
    for form in ("diffusers", "peft"):
        wanted, unet = Wanted(form), topology(where.family).unet
        target = tmp_path / (form if form == "peft" else f"{form}.safetensors")
        write_form(as_lora(read, wanted, no_progress), read.metadata, wanted, target)
        if form == "peft":
            PeftModel.from_pretrained(unet, str(target))
        else:
            of = StableDiffusionXLPipeline if where.family == "sdxl" else StableDiffusionPipeline
            state, alphas, metadata = of.lora_state_dict(
                str(tmp_path), weight_name=target.name, return_lora_metadata=True
            )
            of.load_lora_into_unet(state, alphas, unet, "default", metadata=metadata)
        layers = dict(tuner_layers(unet, "default"))
        assert layers.keys() == truth.keys()
        for name, layer in layers.items():
            change = layer.get_delta_weight("default").detach()
            assert float((change - truth[name]).abs().max()) <= 1e-6


def test_a_lower_rank_is_as_far_off_as_it_says(made: Any, tmp_path: Path) -> None:
    where, file, truth = made
    wanted, read = Wanted("kohya", "fp32", 1), read_adapter_file(file)
    parts = as_lora(read, wanted, no_progress)
    written, _ = write_form(parts, read.metadata, wanted, tmp_path / "out.safetensors")
    changes = sd_scripts(load_file(written.path), where, 1.0).changes
    lost = sum(float((changes[name] - truth[name]).square().sum()) for name in truth)
    whole = sum(float(change.square().sum()) for change in truth.values())
    said = Losses.of(parts.losses)
    assert said.share == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    told = json.loads(read_file(written.path)[1]["loba.approximation"])
    assert told["rank"] == 1
    assert told["error"] == pytest.approx(said.share, abs=1e-5)


def text_encoder_file(path: Path, size: float = 1.0) -> Path:
    layers = {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (64, 2048),
        "lora_te1_text_model_encoder_layers_3_mlp_fc1": (16, 8),
        "lora_te2_text_model_encoder_layers_3_self_attn_q_proj": (8, 8),
    }
    file = {}
    for name, (outputs, inputs) in layers.items():
        file[f"{name}.lora_down.weight"] = torch.full((2, inputs), size)
        file[f"{name}.lora_up.weight"] = torch.ones(outputs, 2)
        file[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(file, path)
    return path


def test_text_encoders_go_with_either_form(tmp_path: Path) -> None:
    read = read_adapter_file(text_encoder_file(tmp_path / "in.safetensors"))
    for form, name in (
        ("kohya", "lora_te2_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight"),
        (
            "diffusers",
            "text_encoder_2.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.up.weight",
        ),
    ):
        wanted = Wanted(form)
        target = tmp_path / f"{form}.safetensors"
        parts = as_lora(read, wanted, no_progress)
        write_form(parts, read.metadata, wanted, target)
        assert name in load_file(target)
        again = read_adapter_file(target)
        assert again.text_encoder_layers == 2
        for layer, former in zip(
            sorted(again.layers, key=lambda each: each.module),
            sorted(read.layers, key=lambda each: each.module),
            strict=True,
        ):
            torch.testing.assert_close(layer.weight.dense(), former.weight.dense())
    target = tmp_path / "peft"
    _, left_out = write_form(parts, {}, Wanted("peft"), target)
    assert left_out == ["2 layers of text encoders, which a PEFT folder of a UNet lacks"]


@pytest.mark.parametrize(("dtype", "of"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_half_precision_file_is_half_the_size_and_never_overflows(
    dtype: str, of: torch.dtype, tmp_path: Path
) -> None:
    read = read_adapter_file(text_encoder_file(tmp_path / "in.safetensors"))
    wanted = Wanted("kohya", dtype)
    write_form(as_lora(read, wanted, no_progress), {}, wanted, tmp_path / "out.safetensors")
    file = load_file(tmp_path / "out.safetensors")
    assert {t.dtype for name, t in file.items() if not name.endswith(".alpha")} == {of}
    assert {t.dtype for name, t in file.items() if name.endswith(".alpha")} == {torch.float32}
    large = read_adapter_file(text_encoder_file(tmp_path / "large.safetensors", 1e6))
    if dtype == "fp16":
        with pytest.raises(NumericsError, match="too large for fp16"):
            write_form(as_lora(large, wanted, no_progress), {}, wanted, tmp_path / "l.safetensors")
