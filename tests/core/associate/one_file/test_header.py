from __future__ import annotations

from pathlib import Path

import pytest
from file_headers import ORDINARY, write_header

from loba_tui.core.associate.one_file.header import inspect
from loba_tui.core.errors import CorruptError, LobaError, RecipeError, RefusedError

UNET = "model.diffusion_model."


def made(tmp_path: Path, keys, *, metadata=None):
    return inspect(write_header(tmp_path / "model.safetensors", keys, metadata=metadata))


@pytest.mark.parametrize("family", ["sdxl", "sd1", "sd2"])
def test_the_family_is_told_from_the_names(tmp_path, family):
    found = made(tmp_path, ORDINARY[family])
    found.check(needs_vae=True)
    assert found.family == family
    assert found.prediction_type is None
    assert not found.zero_snr


@pytest.mark.parametrize(
    ("more", "metadata", "expected"),
    [
        ({"v_pred": []}, None, "v_prediction"),
        ({}, {"modelspec.prediction_type": "v"}, "v_prediction"),
        ({}, {"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ({}, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
        ({}, {"modelspec.prediction_type": "flow"}, "flow"),
        ({}, {"modelspec.prediction_type": "other"}, None),
    ],
)
def test_what_a_model_predicts_is_read_from_its_markers(tmp_path, more, metadata, expected):
    keys = {**ORDINARY["sd2"], **more}
    assert made(tmp_path, keys, metadata=metadata).prediction_type == expected


def without(family: str, prefix: str) -> dict[str, list[int]]:
    return {k: v for k, v in ORDINARY[family].items() if not k.startswith(prefix)}


NINE = {**ORDINARY["sd1"], f"{UNET}input_blocks.0.0.weight": [320, 9, 3, 3]}
REFINER = {
    **{k: v for k, v in ORDINARY["sdxl"].items() if not k.startswith("conditioner.")},
    "conditioner.embedders.0.model.ln_final.weight": [1280],
}
REFUSED = {
    "inpainting": (NINE, "is an inpainting model"),
    "refiner": (REFINER, "is the refiner"),
    "UNet alone": (without("sdxl", "conditioner."), "without text_encoder and text_encoder_2"),
    "bare UNet": ({"input_blocks.0.0.weight": [320, 4, 3, 3]}, "is a UNet"),
    "ComfyUI's UNet": ({"diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3]}, "is a UNet"),
    "diffusers' UNet": (
        {"down_blocks.0.resnets.0.conv1.weight": [320, 320, 3, 3]},
        "is the UNet of a diffusers folder",
    ),
    "no VAE": (without("sd1", "first_stage_model."), "has no VAE"),
    "VAE alone": ({"encoder.conv_in.weight": [128, 3, 3, 3]}, "is a VAE"),
    "kohya's LoRA": ({"lora_unet_x.lora_down.weight": [4, 320]}, "is an adapter"),
    "diffusers' LoRA": ({"unet.x.lora_A.weight": [4, 320]}, "is an adapter"),
    "LoKr": ({"lora_unet_x.lokr_w1": [4, 4]}, "is an adapter"),
    "FLUX": ({"double_blocks.0.img_attn.qkv.weight": [8, 8]}, "is a FLUX model"),
    "FLUX in a bundle": (
        {f"{UNET}double_blocks.0.img_attn.qkv.weight": [8, 8]},
        "is a FLUX model",
    ),
    "SD 3": ({f"{UNET}joint_blocks.0.x_block.attn.qkv.weight": [8, 8]}, "is a Stable Diffusion 3"),
    "text encoder": ({"text_model.embeddings.token_embedding.weight": [8, 8]}, "a text encoder"),
    "embedding": ({"emb_params": [4, 768]}, "is a textual inversion embedding"),
    "ControlNet": ({"control_model.input_blocks.0.0.weight": [320, 4, 3, 3]}, "is a ControlNet"),
    "video": (
        {**ORDINARY["sd2"], f"{UNET}input_blocks.1.1.time_stack.0.attn1.to_q.weight": [8, 8]},
        "is a video model",
    ),
    "EDM": ({**ORDINARY["sdxl"], "edm_mean": [4], "edm_std": [4]}, "an EDM schedule"),
    "scaled fp8": ({**ORDINARY["sdxl"], "scaled_fp8": [2]}, "quantised weights"),
    "scale_weight": ({**ORDINARY["sdxl"], f"{UNET}out.2.scale_weight": [1]}, "quantised weights"),
    "NF4": (
        {**ORDINARY["sdxl"], f"{UNET}out.2.weight.quant_state.bitsandbytes__nf4": [9]},
        "quantised weights",
    ),
    "nothing": ({}, "is no Stable Diffusion checkpoint"),
    "something": ({"layer.weight": [1]}, "is no Stable Diffusion checkpoint"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_a_base_model_is_refused_with_what_to_do(tmp_path, kind):
    keys, says = REFUSED[kind]
    with pytest.raises(RecipeError, match=says) as found:
        made(tmp_path, keys).check(needs_vae=True)
    assert found.value.hint
    assert "model.safetensors" in found.value.message


def test_integers_in_the_unet_are_refused(tmp_path):
    path = write_header(tmp_path / "model.safetensors", ORDINARY["sdxl"], dtype="I8")
    with pytest.raises(RecipeError, match="quantised weights: of I8"):
        inspect(path).check(needs_vae=True)


def test_a_pickle_is_refused_by_its_name(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"PK")
    with pytest.raises(RefusedError):
        inspect(tmp_path / "model.ckpt")


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff" * 100, b"\2\0\0\0\0\0\0\0[]"])
def test_what_is_no_safetensors_file_is_corrupt(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptError):
        inspect(tmp_path / "model.safetensors")


@pytest.mark.parametrize("shape", [[], [3], [320, 4], [0, 0, 0, 0]])
def test_odd_shapes_are_answered(tmp_path, shape):
    keys = {**ORDINARY["sd1"], f"{UNET}input_blocks.0.0.weight": shape}
    keys[f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"] = shape
    with pytest.raises(LobaError):
        made(tmp_path, keys).check(needs_vae=True)
