import gc
import weakref

import pytest
import torch

from loba_tui.core.associate.containers.sdxl import SDXLContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError, ResourceError


@pytest.fixture
def cache() -> ModelCache:
    return ModelCache(device="cpu")


def test_a_model_is_loaded_once(cache, tiny_sdxl_folder):
    model_id = str(tiny_sdxl_folder)
    assert cache.get(model_id) is None
    pipeline = cache.load(model_id)
    assert cache.load(model_id) is pipeline
    assert cache.get(model_id) is pipeline


def test_unload_frees_what_nobody_else_holds(cache, tiny_sdxl_folder):
    model_id = str(tiny_sdxl_folder)
    unet = weakref.ref(cache.load(model_id).unet)
    assert cache.unload(model_id)
    gc.collect()
    assert unet() is None
    assert cache.get(model_id) is None
    assert not cache.unload(model_id)


def test_unload_says_when_somebody_still_holds_it(cache, tiny_sdxl_folder, caplog):
    pipeline = cache.load(str(tiny_sdxl_folder))
    assert not cache.unload(str(tiny_sdxl_folder))
    assert "still held" in caplog.text
    assert pipeline.unet is not None


def test_put_holds_a_pipeline_under_any_id(cache, tiny_sdxl_folder):
    pipeline = cache.load(str(tiny_sdxl_folder))
    cache.put("mine", pipeline)
    assert cache.load("mine") is pipeline
    assert isinstance(cache.container("mine"), SDXLContainer)
    assert cache.source("mine") is None


def test_another_revision_of_a_resident_model_is_not_taken_in_silence(cache, tiny_sdxl_folder):
    cache.load(str(tiny_sdxl_folder))
    with pytest.raises(RecipeError, match="loaded already"):
        cache.load(str(tiny_sdxl_folder), revision="other")


def test_what_is_resident_adds_up(cache, tiny_sdxl_folder):
    pipeline = cache.load(str(tiny_sdxl_folder))
    resident = {component.name: component for component in cache.resident()}
    assert set(resident) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    num_bytes = 4 * sum(p.numel() for p in pipeline.unet.parameters())
    assert resident["unet"].memory_mib == pytest.approx(num_bytes / 2**20, abs=0.01)
    assert (resident["unet"].device, resident["unet"].dtype) == ("cpu", "float32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_the_specified_device_is_an_error_without_cuda():
    with pytest.raises(ResourceError, match="cuda:122"):
        ModelCache(device="cuda:122")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_specified_form_works_as_written(tiny_sdxl_folder):
    cache = ModelCache(device="cuda:122")
    pipe = cache.load(str(tiny_sdxl_folder))
    assert pipe.device == torch.device("cuda:0")
    assert pipe("a red circle", num_inference_steps=2).images
    cache.unload(str(tiny_sdxl_folder))
    assert pipe.device.type == "cpu"


def test_dtype_is_taken_by_name_or_by_torch():
    assert ModelCache("cpu", "bfloat16").dtype is torch.bfloat16
    assert ModelCache("cpu", torch.float16).dtype is torch.float16
    assert ModelCache("cpu").dtype is torch.float32
