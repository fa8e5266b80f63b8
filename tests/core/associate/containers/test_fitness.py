"""Folders that are odd: each works, or is refused in one sentence before weights are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loba_tui.core.associate.containers.loading import load_pipeline
from loba_tui.core.associate.model_shapes import open_shapes
from loba_tui.core.associate.sources.locate import locate
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.associate.sources.weights import weights_bytes
from loba_tui.core.errors import CorruptError, RecipeError


@pytest.fixture
def copied(tiny_sdxl_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_sdxl_folder, tmp_path / "copy")


def load(folder: Path, **overrides: str):
    source = locate(str(folder), overrides=Overrides(**overrides))
    return load_pipeline(source, dtype=torch.float32)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def as_variant(folder: Path, name: str, component: str = "*") -> None:
    for path in folder.glob(f"{component}/*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", f".{name}.safetensors")))


def refused(folder: Path, says: str, kind: type[Exception] = RecipeError) -> None:
    """Check that neither loading nor planning takes the folder, without its weights."""
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(kind, match=says) as found:
        load(folder)
    assert found.value.hint
    with pytest.raises(kind, match=says):
        open_shapes(str(folder), None, torch.float32)


def test_weights_of_one_variant_alone_need_no_name(copied):
    plain = load(copied)
    as_variant(copied, "fp16")
    source = locate(str(copied))
    assert weights_bytes(source, ["unet"], dtype=torch.float32, variant=None) > 0
    found = load(copied)
    for key, value in plain.unet.state_dict().items():
        assert torch.equal(found.unet.state_dict()[key], value)


def test_a_variant_beside_plain_weights_is_not_taken(copied):
    as_variant(copied, "fp16", "unet")
    assert load(copied).unet is not None


def test_two_variants_have_to_be_told_apart(copied):
    as_variant(copied, "fp16", "unet")
    as_variant(copied, "bf16", "vae")
    with pytest.raises(RecipeError, match=r"base_model\.variant: .* bf16, fp16"):
        load(copied)


def test_sharded_weights_are_read(copied):
    plain = load(copied)
    shutil.rmtree(copied / "unet")
    plain.unet.save_pretrained(copied / "unet", max_shard_size="60KB")
    assert len(list((copied / "unet").glob("*.safetensors"))) > 1
    found = load(copied)
    for key, value in plain.unet.state_dict().items():
        assert torch.equal(found.unet.state_dict()[key], value)


def test_a_folder_without_a_vae_takes_another(copied, tiny_sdxl_folder):
    index = json.loads((copied / "model_index.json").read_text())
    del index["vae"]
    (copied / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(copied / "vae")
    assert load(copied, vae=str(tiny_sdxl_folder)).vae.config.latent_channels == 4
    refused(copied, "has no VAE")


def test_a_vae_of_another_class_is_refused_and_can_be_replaced(copied, tiny_sdxl_folder):
    edit(copied / "model_index.json", vae=["diffusers", "AutoencoderTiny"])
    assert type(load(copied, vae=str(tiny_sdxl_folder)).vae).__name__ == "AutoencoderKL"
    refused(copied, "the VAE class AutoencoderTiny")


def test_nine_inputs_under_the_plain_class_are_refused(copied):
    edit(copied / "unet" / "config.json", in_channels=9)
    refused(copied, "is an inpainting model")


def test_a_unet_that_is_told_the_guidance_scale_is_refused(copied):
    edit(copied / "unet" / "config.json", time_cond_proj_dim=256)
    refused(copied, "time_cond_proj_dim")


def test_a_lora_left_attached_is_refused(copied):
    path = next((copied / "unet").glob("*.safetensors"))
    state = load_file(path)
    key = next(key for key in state if key.endswith("to_q.weight"))
    state[key.replace(".weight", ".base_layer.weight")] = state.pop(key)
    save_file(state, path)
    with pytest.raises(RecipeError, match="saved with a LoRA attached"):
        load(copied)


@pytest.mark.parametrize("component", ["vae", "unet", "text_encoder_2"])
def test_a_link_of_the_cache_that_dangles_is_said(copied, component, tmp_path):
    path = next((copied / component).glob("*.safetensors"))
    path.unlink()
    path.symlink_to(tmp_path / "blobs" / ("a" * 64))
    with pytest.raises(CorruptError, match="a link to a file that is gone"):
        load(copied)
    with pytest.raises(CorruptError, match="a link to a file that is gone"):
        weights_bytes(locate(str(copied)), [component], dtype=torch.float32, variant=None)
