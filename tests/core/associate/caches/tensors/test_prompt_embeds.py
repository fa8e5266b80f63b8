import torch

from loba_tui.core.associate.caches.tensors.fingerprint import producer_fingerprint
from loba_tui.core.associate.caches.tensors.prompt_embeds import PromptEmbedCache, has_all
from loba_tui.core.associate.caches.tensors.store import TensorStore
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.model_cache import ModelCache

TEXT_PARTS = ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"]


class CountingContainer:
    """Encodes a prompt as its length, and counts."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode_alone(self, prompts: list[str]) -> list[PromptEmbeds]:
        self.encoded += prompts
        lengths = [torch.tensor([float(len(prompt))]) for prompt in prompts]
        return [PromptEmbeds(each.view(1, 1, 1).expand(1, 2, 3), each[None]) for each in lengths]


def store_in(folder):
    return TensorStore(folder, "embeds", {"model": "m"}, spare_bytes=0)


def test_every_prompt_is_encoded_once():
    container = CountingContainer()
    cache = PromptEmbedCache(container)
    cache.encode(["a", "bb", "a"])
    cache.encode(["bb", "ccc"])
    assert container.encoded == ["a", "bb", "ccc"]
    assert list(cache) == ["a", "bb", "ccc"]


class Accelerated(CountingContainer):
    """Has rows on another device, which tells where they were moved to."""

    device = torch.device("meta")


def test_what_is_more_than_the_device_is_to_hold_waits_in_main_memory():
    a_row = 4 * (2 * 3 + 1)
    cache = PromptEmbedCache(Accelerated(), most_on_device=2 * a_row)
    cache.encode(["a", "bb", "ccc", "dddd"])
    rows = cache._rows
    assert [rows[prompt].embeds.is_meta for prompt in cache] == [True, True, False, False]
    assert rows["dddd"].pooled.tolist() == [[4.0]]
    assert all(cache[prompt].embeds.is_meta for prompt in cache), "given where it is used"
    assert cache.batch(["a", "dddd"]).pooled.is_meta


def test_a_batch_has_the_rows_in_the_order_asked_for():
    cache = PromptEmbedCache(CountingContainer())
    rows = cache.batch(["ccc", "a", "ccc"])
    assert rows.pooled.flatten().tolist() == [3, 1, 3]
    assert cache["a"].embeds.shape == (1, 2, 3)


def test_rows_of_a_store_are_not_encoded_again(tmp_path):
    first = PromptEmbedCache(CountingContainer(), store_in(tmp_path))
    first.encode(["a", "bb"])
    container = CountingContainer()
    cache = PromptEmbedCache(container, store_in(tmp_path))
    assert has_all(store_in(tmp_path), ["a", "bb"])
    assert not has_all(store_in(tmp_path), ["a", "ccc"])
    assert not has_all(None, ["a"])
    cache.encode(["ccc", "bb", "a"])
    assert container.encoded == ["ccc"]
    assert torch.equal(cache["bb"].embeds, first["bb"].embeds)
    assert torch.equal(cache["bb"].pooled, first["bb"].pooled)


def test_a_family_without_a_pooled_state_is_kept_as_such(tmp_path):
    class NoPooled(CountingContainer):
        def encode_alone(self, prompts: list[str]) -> list[PromptEmbeds]:
            return [PromptEmbeds(row.embeds) for row in super().encode_alone(prompts)]

    PromptEmbedCache(NoPooled(), store_in(tmp_path)).encode(["a"])
    again = PromptEmbedCache(CountingContainer(), store_in(tmp_path))
    again.encode(["a"])
    assert again["a"].pooled is None


def test_a_row_is_laid_out_alike_whether_it_was_kept_or_made(tmp_path):
    for _ in range(2):
        cache = PromptEmbedCache(CountingContainer(), store_in(tmp_path))
        cache.encode(["a"])
        assert cache["a"].embeds.stride() == (6, 3, 1)
        assert cache["a"].embeds.untyped_storage().nbytes() == 24


def test_an_embedding_does_not_depend_on_what_was_kept_or_on_its_neighbours(
    tiny_sdxl_folder, tmp_path
):
    cache = ModelCache(device="cpu")
    container = cache.container(str(tiny_sdxl_folder))
    fingerprint = producer_fingerprint(
        cache.source(str(tiny_sdxl_folder)),
        TEXT_PARTS,
        variant=None,
        device=cache.device,
        dtype=cache.dtype,
    )
    prompts = [f"a {color} circle" for color in ("red", "green", "blue")]
    without = PromptEmbedCache(container).batch(prompts)
    store = TensorStore(tmp_path, "embeds", fingerprint, spare_bytes=0)
    PromptEmbedCache(container, store).encode(prompts[1:2])
    half_warm = PromptEmbedCache(container, store).batch(prompts)
    warm = PromptEmbedCache(container, store)
    assert has_all(store, prompts)
    for rows in (half_warm, warm.batch(prompts)):
        assert torch.equal(rows.embeds, without.embeds)
        assert torch.equal(rows.pooled, without.pooled)
