import gc
import shutil
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loba_tui.core.associate.caches.memory.resident import bytes_by_place
from loba_tui.core.associate.containers.families.sdxl import SDXLContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError, ResourceError


@pytest.fixture(autouse=True, scope="module")
def _collect_quickly():
    """Leave what the libraries have made out of the collections that evictions ask for."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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
    assert resident["unet"].num_bytes == num_bytes
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


def num_bytes_of(module):
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def components(cache):
    return {(part.name, part.models): part for part in cache.resident()}


@pytest.fixture(scope="module")
def other_models(tmp_path_factory, tiny_sdxl_folder) -> list[str]:
    """Three models that have no network in common."""
    folders = []
    for seed in range(3):
        pipeline = ModelCache("cpu").load(str(tiny_sdxl_folder))
        with torch.no_grad():
            for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
                next(pipeline.components[name].parameters()).add_(1 + seed)
        folder = tmp_path_factory.mktemp("others") / f"model-{seed}"
        pipeline.save_pretrained(folder)
        folders.append(str(folder))
    return folders


@pytest.fixture(scope="module")
def one_model(other_models) -> int:
    cache = ModelCache("cpu")
    cache.load(other_models[0])
    return cache.num_bytes()


def test_the_least_recently_used_model_goes_first(other_models, one_model):
    first, second, third = other_models
    cache = ModelCache("cpu", max_bytes=2 * one_model + 1000)
    cache.load(first)
    cache.load(second)
    cache.get(first)  # the second is the one that was used least recently
    cache.load(third)
    assert [cache.get(each) is not None for each in (first, second, third)] == [True, False, True]
    assert cache.num_bytes() == 2 * one_model
    cache.load(second)
    assert cache.get(first) is None
    assert cache.num_bytes() <= cache.max_bytes


def test_what_a_caller_holds_is_never_evicted(other_models, one_model):
    first, second, third = other_models
    cache = ModelCache("cpu", max_bytes=2 * one_model + 1000)
    held = cache.load(first)
    cache.load(second)
    cache.load(third)
    assert cache.get(first) is held
    assert cache.get(second) is None
    with cache.using(third), pytest.raises(ResourceError, match="in use by") as refused:
        cache.load(second)
    assert first in refused.value.message
    assert third in refused.value.message
    assert {cache.get(first), cache.get(third)} == {held, cache.load(third)}


def test_a_refusal_leaves_the_order_of_use_as_it_was(other_models, one_model):
    first, second, third = other_models
    cache = ModelCache("cpu", max_bytes=2 * one_model + 1000)
    cache.load(first)
    cache.load(second)
    with cache.using(first), cache.using(second), pytest.raises(ResourceError):
        cache.load(third)
    cache.load(first)  # used last now
    cache.load(third)
    assert (cache.get(second), cache.get(first) is not None) == (None, True)


def test_a_model_over_the_budget_is_refused_before_it_is_loaded(other_models, one_model):
    cache = ModelCache("cpu", max_bytes=one_model // 2)
    with pytest.raises(ResourceError, match="the budget for all models is"):
        cache.load(other_models[0])
    cache = ModelCache("cpu", max_bytes=one_model - 1)  # by less than the files can tell
    with pytest.raises(ResourceError):
        cache.load(other_models[0])
    assert cache.resident() == []
    cache = ModelCache("cpu", "bfloat16", max_bytes=one_model - 1)
    cache.load(other_models[0])  # half the bytes
    assert one_model / 2 <= cache.num_bytes() <= cache.max_bytes


def test_a_network_that_a_caller_kept_still_counts(other_models, one_model):
    first, second, _ = other_models
    cache = ModelCache("cpu", max_bytes=one_model + 1000)
    unet = cache.load(first).unet
    with pytest.raises(ResourceError, match="in use by a caller"):
        cache.load(second)
    (left,) = cache.resident()
    assert (left.name, left.models, left.num_bytes) == ("unet", (), num_bytes_of(unet))
    del unet, left
    cache.load(second)
    assert cache.num_bytes() == one_model


def test_put_keeps_to_the_budget_too(other_models, one_model):
    pipeline = ModelCache("cpu").load(other_models[0])
    with pytest.raises(ResourceError, match="mine takes"):
        ModelCache("cpu", max_bytes=1000).put("mine", pipeline)
    cache = ModelCache("cpu", max_bytes=one_model)
    cache.put("mine", pipeline)
    cache.put("again", pipeline)  # no bytes more
    assert cache.num_bytes() == one_model


def test_equal_components_are_loaded_once_counted_once_and_freed_with_their_last_holder(
    tiny_sdxl_folder, tmp_path
):
    copy = str(shutil.copytree(tiny_sdxl_folder, tmp_path / "copy"))
    original = str(tiny_sdxl_folder)
    cache = ModelCache("cpu")
    one, other = cache.load(original), cache.load(copy)
    for name in ("vae", "text_encoder", "text_encoder_2"):
        assert one.components[name] is other.components[name]
        assert components(cache)[name, (original, copy)].num_bytes == num_bytes_of(
            one.components[name]
        )
    assert one.unet is not other.unet  # it is trained
    sizes = [num_bytes_of(each) for each in (one.vae, one.text_encoder, one.text_encoder_2)]
    assert cache.num_bytes() == sum(sizes) + 2 * num_bytes_of(one.unet)
    vae, unet = weakref.ref(one.vae), weakref.ref(one.unet)
    del one
    assert cache.unload(original)
    assert (vae() is not None, unet()) == (True, None)
    assert other.vae is vae()
    del other
    assert cache.unload(copy)
    assert vae() is None
    assert cache.num_bytes() == 0


def test_a_model_whose_files_are_gone_stands_in_nobodys_way(tiny_sdxl_folder, tmp_path):
    copy = shutil.copytree(tiny_sdxl_folder, tmp_path / "copy")
    cache = ModelCache("cpu")
    one = cache.load(str(copy))
    shutil.rmtree(copy)
    assert cache.load(str(tiny_sdxl_folder)).vae is not one.vae


@pytest.mark.parametrize("change", ["weights", "config", "dtype"])
def test_what_differs_is_not_shared(tiny_sdxl_folder, tmp_path, change):
    copy = shutil.copytree(tiny_sdxl_folder, tmp_path / "copy")
    cache = ModelCache("cpu")
    one = cache.load(str(tiny_sdxl_folder))
    if change == "weights":
        (path,) = (copy / "vae").glob("*.safetensors")
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif change == "config":
        path = copy / "vae" / "config.json"
        text = path.read_text()
        path.write_text(text.replace('"scaling_factor": 0.13025', '"scaling_factor": 0.13026'))
        assert path.read_text() != text
    else:
        one.vae.to(torch.bfloat16)
    assert cache.load(str(copy)).vae is not one.vae


def test_tied_tensors_and_views_count_once():
    base = torch.zeros(10, 4)
    module = torch.nn.Module()
    module.one = torch.nn.Parameter(base)
    module.tied = module.one
    module.register_buffer("view", module.one.data[:5])
    module.register_buffer("small", torch.zeros(3, dtype=torch.bfloat16))
    assert bytes_by_place([module, module]) == {
        ("cpu", "float32"): 160,
        ("cpu", "bfloat16"): 6,
    }


def test_a_component_goes_alone_and_comes_back_as_it_was(tiny_sdxl_folder):
    model_id = str(tiny_sdxl_folder)
    cache = ModelCache("cpu")
    pipeline, before = cache.load(model_id), cache.num_bytes()
    expected = {name: value.clone() for name, value in pipeline.vae.state_dict().items()}
    vae, size = weakref.ref(pipeline.vae), num_bytes_of(pipeline.vae)
    assert cache.unload(model_id, "vae")
    assert (vae(), pipeline.vae, cache.left_out(model_id)) == (None, None, ["vae"])
    assert cache.num_bytes() == before - size
    with pytest.raises(RecipeError, match=r"vae of .* is not in memory"):
        cache.unload(model_id, "vae")
    cache.onload(model_id, "vae")
    assert cache.num_bytes() == before
    assert not pipeline.vae.training
    assert not any(parameter.requires_grad for parameter in pipeline.vae.parameters())
    for name, value in pipeline.vae.state_dict().items():
        assert torch.equal(value, expected[name])


def test_a_container_has_what_it_needs_brought_back(tiny_sdxl_folder):
    model_id = str(tiny_sdxl_folder)
    cache = ModelCache("cpu")
    container = cache.container(model_id)
    latents = torch.randn(1, *container.latent_shape(), generator=torch.manual_seed(0))
    images, rows = container.decode(latents), container.encode_prompts(["a circle"])
    cache.unload(model_id, "vae")
    container.release_text_encoders()
    assert cache.left_out(model_id) == ["text_encoder", "text_encoder_2", "vae"]
    assert torch.equal(container.decode(latents), images)
    assert torch.equal(container.encode_prompts(["a circle"]).embeds, rows.embeds)
    assert cache.left_out(model_id) == []


def test_components_can_be_left_out_from_the_beginning(tiny_sdxl_folder):
    model_id = str(tiny_sdxl_folder)
    cache = ModelCache("cpu")
    pipeline = cache.load(model_id, leave_out=["text_encoder", "text_encoder_2"])
    assert {part.name for part in cache.resident()} == {"unet", "vae"}
    assert cache.load(model_id, leave_out=["text_encoder_2"]) is pipeline
    assert cache.left_out(model_id) == ["text_encoder_2"]
    assert cache.load(model_id).text_encoder_2 is not None


def test_a_container_outlives_its_cache(tiny_sdxl_folder):
    container = ModelCache("cpu").container(str(tiny_sdxl_folder))
    gc.collect()
    container.release_text_encoders()
    assert container.pipeline.text_encoder is None
    with pytest.raises(RuntimeError, match="nobody can load it again"):
        container.encode_prompts(["a circle"])


def test_wrong_names_are_told_with_the_nearest(tiny_sdxl_folder):
    model_id = str(tiny_sdxl_folder)
    cache = ModelCache("cpu")
    cache.load(model_id)
    with pytest.raises(RecipeError) as refused:
        cache.unload(model_id, "vea")
    assert "Did you mean vae?" in refused.value.hint
    with pytest.raises(RecipeError, match="is not loaded"):
        cache.onload("elsewhere")
    with pytest.raises(RecipeError, match="nowhere to offload to"):
        cache.offload(model_id, "vae")


class Movable(torch.nn.Linear):
    """A network that can be moved where there is no accelerator: "meta" stands for one."""

    def to(self, device):
        return self.to_empty(device=device)


class OnePart:
    """A pipeline of one network."""

    def __init__(self, inputs=9, device="meta"):
        self.components = {
            "unet": Movable(inputs, 10, device=device),
            "scheduler": object(),
        }

    def remove_all_hooks(self):
        """There are none."""


def test_offloading_moves_and_is_accounted_for(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    cache = ModelCache("cpu", max_bytes=700)
    cache.device = cache._budget._device = torch.device("meta")
    pipelines = [OnePart(), OnePart()]
    cache.put("model-0", pipelines[0])
    with pytest.raises(ResourceError):
        cache.put("model-1", pipelines[1])
    assert cache.num_bytes() == 400
    cache.offload("model-0")
    assert (cache.num_bytes(), cache.resident()[0].device) == (0, "cpu")
    cache.put("model-1", pipelines[1])
    with pytest.raises(ResourceError, match="model-0 takes"):
        cache.onload("model-0", "unet")
    cache.unload("model-1")
    cache.onload("model-0", "unet")
    assert cache.num_bytes() == 400
    assert cache.resident()[0].device == "meta"


@settings(max_examples=60, deadline=None)
@given(data=st.data(), budget=st.integers(400, 2000))
def test_any_sequence_of_uses_keeps_to_the_budget_and_to_the_order(data, budget):
    """Against the plainest model: sizes in the order of use, and who is held."""
    cache = ModelCache("cpu", max_bytes=budget)
    sizes: dict[str, int] = {}  # least recently used first
    held: dict[str, OnePart] = {}
    for number in range(data.draw(st.integers(1, 12))):
        what = data.draw(st.sampled_from(["put", "put", "get", "hold", "release", "unload"]))
        known = sorted(sizes)
        if what == "put":
            name, pipeline = f"model-{number}", OnePart(data.draw(st.integers(1, 20)), "cpu")
            size = num_bytes_of(pipeline.components["unet"])
            fits = size <= budget
            for each in [*sizes] if fits else []:
                if sum(sizes.values()) + size > budget and each not in held:
                    del sizes[each]
            fits = fits and sum(sizes.values()) + size <= budget
            if fits:
                cache.put(name, pipeline)
                sizes[name] = size
            else:
                with pytest.raises(ResourceError):
                    cache.put(name, pipeline)
            del pipeline
        elif what == "release":
            held.clear()
        elif known:
            name = data.draw(st.sampled_from(known))
            if what == "unload":
                assert cache.unload(name) == (name not in held)
                held.pop(name, None)
                del sizes[name]
            else:
                sizes[name] = sizes.pop(name)
                pipeline = cache.get(name)
                if what == "hold":
                    held[name] = pipeline
                del pipeline
        assert list(cache._memory) == list(sizes)
        assert cache.num_bytes() == sum(sizes.values()) <= budget
        assert all(cache._memory.peek(name) is pipeline for name, pipeline in held.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_freed_and_offloaded_memory_is_free_on_the_device(tiny_sdxl_folder):
    model_id = str(tiny_sdxl_folder)
    cache = ModelCache("cuda")
    container = cache.container(model_id)
    latents = torch.randn(1, *container.latent_shape(), device="cuda")
    images = container.decode(latents)
    before = torch.cuda.memory_allocated()
    size = num_bytes_of(container.pipeline.vae)
    cache.offload(model_id, "vae")
    assert torch.cuda.memory_allocated() <= before - size
    assert container.device.type == "cuda"
    assert torch.equal(container.decode(latents), images)
    assert container.pipeline.vae.device.type == "cuda"
    assert cache.unload(model_id, "vae")
    assert torch.equal(container.decode(latents), images)
    del container
    assert cache.unload(model_id)
    assert torch.cuda.memory_allocated() <= images.nbytes + latents.nbytes + 2**20
