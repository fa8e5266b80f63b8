import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from loba_tui.core.associate.caches.memory.block_offload import offload_of
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.pipeline_wrapper import PipelineWrapper, check_attention
from loba_tui.core.recipe.schema import BaseModelSection


def wrap(folder: Path, **settings: object) -> PipelineWrapper:
    section = BaseModelSection(id=str(folder), device="cpu", **settings)
    return PipelineWrapper(section, ModelCache("cpu"))


def prediction(container: ModelContainer) -> torch.Tensor:
    noise = torch.randn(2, *container.latent_shape(), generator=torch.Generator().manual_seed(0))
    embeds = container.encode_prompts(["a red circle", "a square"])
    return container.predict(noise, torch.tensor([20, 700]), embeds)


@pytest.fixture(autouse=True)
def threads_are_given_back():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("attention", ["sdpa", "math", "flash"])
def test_attention_backends_agree_with_the_written_out_formula(tiny_sdxl_folder, attention):
    plain = wrap(tiny_sdxl_folder).load()
    plain.denoiser.set_attn_processor(AttnProcessor())
    container = wrap(tiny_sdxl_folder, attention=attention).load()
    with torch.no_grad():
        torch.testing.assert_close(prediction(container), prediction(plain), atol=1e-5, rtol=1e-4)


def test_gradients_flow_through_a_chosen_backend_and_checkpointing(tiny_sdxl_folder):
    def gradient(**settings: object) -> torch.Tensor:
        container = wrap(tiny_sdxl_folder, **settings).load()
        weight = container.denoiser.conv_out.weight.requires_grad_()
        first = container.denoiser.conv_in.weight.requires_grad_()
        prediction(container).square().mean().backward()
        return torch.cat([weight.grad.flatten(), first.grad.flatten()])

    expected = gradient()
    checkpointed = gradient(attention="math", gradient_checkpointing=True)
    torch.testing.assert_close(checkpointed, expected, atol=1e-6, rtol=1e-4)


def test_checkpointing_is_on_only_when_asked_for(tiny_sdxl_folder):
    assert not wrap(tiny_sdxl_folder).load().denoiser.is_gradient_checkpointing
    container = wrap(tiny_sdxl_folder, gradient_checkpointing=True).load()
    assert container.denoiser.is_gradient_checkpointing


def test_missing_xformers_names_what_to_install(tiny_sdxl_folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ResourceError) as caught:
        wrap(tiny_sdxl_folder, attention="xformers").load()
    assert "pip install xformers" in caught.value.hint


def test_flash_attention_in_float32_on_cuda_is_said_before_loading():
    with pytest.raises(ResourceError, match="flash"):
        check_attention("flash", torch.device("cuda:0"), torch.float32)
    check_attention("flash", torch.device("cuda:0"), torch.bfloat16)


def test_the_denoiser_s_blocks_wait_in_main_memory(tiny_sdxl_folder, monkeypatch):
    monkeypatch.setattr(PipelineWrapper, "_check", lambda self: None)  # the CPU has no other
    plain = wrap(tiny_sdxl_folder).load()
    waiting = wrap(tiny_sdxl_folder, offload="blocks", blocks_on_host=2).load()
    with torch.no_grad():
        assert torch.equal(prediction(waiting), prediction(plain))
    moved = offload_of(waiting.denoiser)
    assert moved is not None
    assert moved.num_copies == 2
    read = offload_of(waiting.pipeline.text_encoder)
    assert read is not None
    assert read.num_copies > 0
    with pytest.raises(RecipeError, match=r"blocks_on_host: 99 is more than the \d+ blocks"):
        wrap(tiny_sdxl_folder, offload="blocks", blocks_on_host=99).load()


def test_the_vae_takes_one_image_after_another(tiny_sdxl_folder):
    # A wrapper that nobody holds takes with it what its container would load again.
    wrappers = [
        wrap(tiny_sdxl_folder, **own) for own in ({}, {"vae_slicing": True}, {"vae_tiling": True})
    ]
    plain, sliced, tiled = (wrapper.load() for wrapper in wrappers)
    latents = torch.randn(3, *plain.latent_shape(), generator=torch.Generator().manual_seed(0))
    alone = torch.cat([plain.decode(row[None]) for row in latents])
    assert torch.equal(sliced.decode(latents), alone)
    sliced.memory.drop(["vae"])
    assert torch.equal(sliced.decode(latents), alone)
    assert sliced.pipeline.vae.use_slicing, "the setting is of the model, not of what was loaded"
    tiled.require("vae")
    assert tiled.pipeline.vae.use_tiling
    assert not plain.pipeline.vae.use_slicing


def test_the_denoiser_comes_when_the_text_encoders_have_gone(tiny_sdxl_folder):
    settings = BaseModelSection(id=str(tiny_sdxl_folder), device="cpu")
    wrapper = PipelineWrapper.of(settings, SHIPPED)
    wrapper.cache.device = torch.device("meta")  # in the place of an accelerator
    container = wrapper.load(denoiser_waits=True)
    assert container.device.type == container.pipeline.text_encoder.device.type == "meta"
    assert container.denoiser.device.type == "cpu"
    wrapper.place_denoiser(container)
    assert container.denoiser.device.type == "meta"


@pytest.mark.parametrize("offload", ["model", "sequential", "blocks"])
def test_offload_without_an_accelerator_is_an_error(tiny_sdxl_folder, offload):
    with pytest.raises(ResourceError, match="needs an accelerator"):
        wrap(tiny_sdxl_folder, offload=offload).load()


def with_settings(folder: Path, tmp_path: Path, settings: object) -> Path:
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / "loba.json").write_text(json.dumps(settings))
    return copied


def test_the_recipe_decides_over_the_models_own_threads(tiny_sdxl_folder, tmp_path):
    folder = with_settings(tiny_sdxl_folder, tmp_path, {"cpu_threads": 3})
    wrap(folder).load()
    assert torch.get_num_threads() == 3
    wrap(folder, threads=2).load()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("value", [0, -1, "2", True, 1.5])
def test_a_senseless_thread_count_of_a_model_is_refused(tiny_sdxl_folder, tmp_path, value):
    folder = with_settings(tiny_sdxl_folder, tmp_path, {"cpu_threads": value})
    with pytest.raises(RecipeError, match="cpu_threads"):
        wrap(folder).load()


def test_unload_frees_the_pipeline(tiny_sdxl_folder):
    wrapper = wrap(tiny_sdxl_folder)
    wrapper.load()
    assert wrapper.cache.unload(wrapper.settings.id)
    assert wrapper.cache.resident() == []


def test_settings_make_a_cache_on_their_device(tiny_sdxl_folder):
    section = BaseModelSection(id=str(tiny_sdxl_folder), device="cpu", dtype="bfloat16")
    wrapper = PipelineWrapper(section, ModelCache(section.device, section.dtype))
    assert wrapper.load().dtype is torch.bfloat16
