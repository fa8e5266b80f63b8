"""What is shown of an adapter file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loba_tui.client.adapters.show import show_adapter
from loba_tui.core.errors import CorruptError, RecipeError, RefusedError

K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"


def test_form_maker_family_layers_and_what_is_not_used_are_shown(tmp_path: Path):
    tensors = {
        f"{K}.lora_down.weight": torch.zeros(4, 2048, dtype=torch.float16),
        f"{K}.lora_up.weight": torch.zeros(640, 4, dtype=torch.float16),
        f"{K}.alpha": torch.tensor(2.0, dtype=torch.bfloat16),
        "lora_te2_text_projection.diff": torch.zeros(8, 8),
        "emb_params": torch.zeros(2, 48),
    }
    save_file(tensors, tmp_path / "f.safetensors", {"ss_network_module": "networks.lora\x1b[2J"})

    shown = show_adapter(tmp_path / "f.safetensors")

    assert (shown.form, shown.family, shown.is_supported) == ("kohya", "SD-XL", True)
    lines = list(shown.lines())
    assert "made by    kohya's sd-scripts (networks.lora)" in lines
    assert "layers     unet: 1 LoRA, rank 4, alpha 2" in lines
    assert "layers     text_encoder_2: 1 full difference" in lines
    assert any("emb_params" in line and "a text embedding" in line for line in lines)
    assert json.loads(json.dumps(shown.record()))["num_tensors"] == 5


def test_a_transformers_file_is_told_by_its_names_and_metadata(tmp_path: Path):
    name = "diffusion_model.double_blocks.0.img_attn.qkv"
    tensors = {
        f"{name}.lora_A.weight": torch.zeros(4, 8),
        f"{name}.lora_B.weight": torch.ones(24, 4),
    }
    metadata = {"ss_base_model_version": "flux2_klein_4b", "format": "pt"}
    save_file(tensors, tmp_path / "f.safetensors", metadata)
    shown = show_adapter(tmp_path / "f.safetensors")
    assert (shown.form, shown.family, shown.is_supported) == ("ComfyUI", "FLUX.2", True)
    assert "layers     transformer: 3 LoRA, rank 4" in list(shown.lines())
    save_file(tensors, tmp_path / "f.safetensors")
    assert show_adapter(tmp_path / "f.safetensors").family == "FLUX.1 or FLUX.2"


def test_a_file_for_another_family_is_named(tmp_path: Path):
    key = "diffusion_model.blocks.0.cross_attn.k.lora_A.weight"
    save_file({key: torch.zeros(2, 2)}, tmp_path / "f.safetensors")
    assert "family     Wan, which is not supported here" in list(
        show_adapter(tmp_path / "f.safetensors").lines()
    )


def test_what_is_no_adapter_file_is_an_error(tmp_path: Path):
    with pytest.raises(RecipeError, match="no file"):
        show_adapter(tmp_path / "missing.safetensors")
    (tmp_path / "a.pt").write_bytes(b"PK")
    with pytest.raises(RefusedError):
        show_adapter(tmp_path / "a.pt")
    (tmp_path / "page.safetensors").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(CorruptError):
        show_adapter(tmp_path / "page.safetensors")
