import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from loba_tui.core.associate.containers.loading import load_pipeline, quiet_progress
from loba_tui.core.associate.sources.locate import locate
from loba_tui.core.errors import CorruptError, RecipeError, RefusedError


@pytest.fixture
def copied(tiny_sdxl_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_sdxl_folder, tmp_path / "copy")


def load(folder: Path, **options: object):
    return load_pipeline(locate(str(folder)), dtype=torch.float32, **options)


def test_loading_is_quiet_and_without_the_network(tiny_sdxl_folder, monkeypatch, capfd):
    def no_network(*_: object) -> None:
        raise AssertionError("a local model asked the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    pipeline = load(tiny_sdxl_folder)
    assert not any(p.requires_grad for p in pipeline.unet.parameters())
    assert not pipeline.unet.training
    assert capfd.readouterr() == ("", "")


def test_progress_bars_are_given_back():
    before = [m.is_progress_bar_enabled() for m in (diffusers_logging, transformers_logging)]
    with quiet_progress():
        assert not diffusers_logging.is_progress_bar_enabled()
    after = [m.is_progress_bar_enabled() for m in (diffusers_logging, transformers_logging)]
    assert after == before


def test_a_truncated_weight_file_is_corrupt(copied):
    path = copied / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptError, match="diffusion_pytorch_model"):
        load(copied)


def test_a_missing_weight_file_is_corrupt(copied):
    (copied / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CorruptError, match="cannot be loaded"):
        load(copied)


@pytest.mark.parametrize("component", ["tokenizer", "tokenizer_2", "scheduler", "vae"])
def test_a_missing_component_is_corrupt_and_named(copied, component):
    shutil.rmtree(copied / component)
    with pytest.raises(CorruptError, match=f"its {component} is missing"):
        load(copied)


def test_a_tokenizer_of_nothing_is_corrupt(copied):
    for path in (copied / "tokenizer_2").iterdir():
        path.unlink()
    with pytest.raises(CorruptError, match="its tokenizer_2 does not say how many tokens"):
        load(copied)


def test_weights_of_another_shape_are_corrupt(copied):
    path = copied / "unet" / "config.json"
    path.write_text(path.read_text().replace('"norm_num_groups": 8', '"norm_num_groups": 7'))
    with pytest.raises(CorruptError):
        load(copied)


def test_a_component_of_pickles_is_refused(copied):
    path = copied / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(RefusedError):
        load(copied)


def test_a_variant_that_is_not_there_is_a_recipe_error(copied):
    with pytest.raises(RecipeError, match="no fp16 weights"):
        load(copied, variant="fp16")


def test_a_variant_that_is_there_is_taken(copied):
    for path in copied.rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert load(copied, variant="fp16").unet is not None


def test_an_index_that_leads_out_of_the_model_is_refused(copied):
    index = copied / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for name in (index, index.with_name("diffusion_pytorch_model.safetensors.index.fp16.json")):
        name.write_text('{"weight_map": {"conv_in.weight": "../../other/secret.safetensors"}}')
        with pytest.raises(RefusedError):
            load(copied)
        name.unlink()


@pytest.mark.parametrize("name", ["more.safetensors", "more.safetensors.index.json"])
def test_a_named_pipe_in_a_model_is_answered_at_once(copied, name):
    os.mkfifo(copied / "unet" / name)
    with pytest.raises(CorruptError, match="cannot be read"):
        load(copied)
