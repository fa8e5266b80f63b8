import pytest
import torch

from loba_tui.core.associate.caches.tensors.fingerprint import producer_fingerprint
from loba_tui.core.associate.caches.tensors.latents import LatentCache
from loba_tui.core.associate.caches.tensors.store import TensorStore
from loba_tui.core.associate.model_cache import ModelCache

SETTINGS = {"size": [32, 32], "crop": [0, 0, 32, 32], "mirrored": False, "background": "#ffffff"}


@pytest.fixture(scope="module")
def container(tiny_sdxl_folder):
    return ModelCache(device="cpu").container(str(tiny_sdxl_folder))


def store_in(folder):
    return TensorStore(folder, "latents", {"model": "m"}, spare_bytes=0)


def image(seed: int) -> torch.Tensor:
    return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed))


def never() -> torch.Tensor:
    raise AssertionError("the image was read again")


def test_moments_are_those_of_the_vae_scaled_as_the_unet_takes_them(container):
    pixels = torch.stack([image(1), image(2)])
    moments = container.encode_moments(pixels)
    with torch.no_grad():
        expected = container.pipeline.vae.encode(pixels * 2 - 1).latent_dist
    factor = container.pipeline.vae.config.scaling_factor
    torch.testing.assert_close(moments.mean, expected.mean * factor)
    torch.testing.assert_close(moments.std, expected.std * factor)
    assert torch.equal(moments.mean, container.encode(pixels))
    noise = torch.randn(moments.mean.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        moments.sample(noise), (expected.mean + expected.std * noise) * factor
    )


def test_an_image_is_read_and_encoded_once_over_several_runs(container, tmp_path):
    first = LatentCache(container, store_in(tmp_path))
    cold = first.get_or_encode("hash", SETTINGS, lambda: image(1), name="a.png")
    without = LatentCache(container, None).get_or_encode("hash", SETTINGS, lambda: image(1))
    again = LatentCache(None, store_in(tmp_path)).get_or_encode("hash", SETTINGS, never)
    for moments in (without, again):
        assert torch.equal(moments.mean, cold.mean)
        assert torch.equal(moments.std, cold.std)
    assert cold.mean.shape == (1, *container.latent_shape(32))


@pytest.mark.parametrize("key", SETTINGS)
def test_any_other_setting_is_encoded_anew(tmp_path, container, key):
    cache = LatentCache(container, store_in(tmp_path))
    cache.get_or_encode("hash", SETTINGS, lambda: image(1))
    assert cache.get("hash", SETTINGS) is not None
    assert cache.get("hash", {**SETTINGS, key: "other"}) is None
    assert cache.get("other", SETTINGS) is None


def test_an_entry_that_is_not_a_latent_is_made_again(tmp_path, container):
    store = store_in(tmp_path)
    key = store.key({"image": "hash", "settings": SETTINGS})
    store.put(key, {"something": torch.zeros(1)}, describe={})
    moments = LatentCache(container, store).get_or_encode("hash", SETTINGS, lambda: image(1))
    assert torch.equal(moments.mean, container.encode(image(1)[None]))


def test_a_reader_without_a_vae_says_what_is_missing(tmp_path):
    with pytest.raises(LookupError, match=r"a\.png"):
        LatentCache(None, store_in(tmp_path)).get_or_encode("h", SETTINGS, never, name="a.png")


def test_a_model_is_known_by_what_is_in_its_files(tiny_sdxl_folder, tmp_path):
    import shutil

    def fingerprint(folder, components=("vae",), dtype=torch.float32):
        cache = ModelCache(device="cpu", dtype=dtype)
        cache.load(str(folder))
        source = cache.source(str(folder))
        return producer_fingerprint(
            source, components, variant=None, device=cache.device, dtype=dtype
        )

    copy = tmp_path / "elsewhere" / tiny_sdxl_folder.name
    shutil.copytree(tiny_sdxl_folder, copy)
    mine = fingerprint(tiny_sdxl_folder)
    assert fingerprint(copy) == mine
    assert fingerprint(copy, dtype=torch.bfloat16) != mine
    assert fingerprint(copy, components=("unet",)) != mine
    (config,) = (copy / "vae").glob("config.json")
    config.write_text(config.read_text() + "\n")
    assert fingerprint(copy) != mine
