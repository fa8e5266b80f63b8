import torch

from loba_tui.core.associate.caches.prompt_embeds import PromptEmbedCache
from loba_tui.core.associate.containers.base import PromptEmbeds


class CountingContainer:
    """Encodes a prompt as its length, and counts."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode_prompts(self, prompts: list[str]) -> PromptEmbeds:
        self.encoded += prompts
        lengths = torch.tensor([float(len(prompt)) for prompt in prompts])
        return PromptEmbeds(lengths.view(-1, 1, 1).expand(-1, 2, 3), lengths.view(-1, 1))


def test_every_prompt_is_encoded_once():
    container = CountingContainer()
    cache = PromptEmbedCache(container)
    cache.encode(["a", "bb", "a"])
    cache.encode(["bb", "ccc"])
    assert container.encoded == ["a", "bb", "ccc"]
    assert list(cache) == ["a", "bb", "ccc"]


def test_a_batch_has_the_rows_in_the_order_asked_for():
    cache = PromptEmbedCache(CountingContainer())
    rows = cache.batch(["ccc", "a", "ccc"])
    assert rows.pooled.flatten().tolist() == [3, 1, 3]
    assert cache["a"].embeds.shape == (1, 2, 3)


def test_rows_of_a_store_are_not_encoded_again():
    store = {"a": PromptEmbeds(torch.zeros(1, 2, 3), torch.zeros(1, 1))}
    container = CountingContainer()
    cache = PromptEmbedCache(container, store)
    cache.encode(["a", "bb"])
    assert container.encoded == ["bb"]
    assert set(store) == {"a", "bb"}


def test_one_row_does_not_keep_the_batch_in_memory():
    cache = PromptEmbedCache(CountingContainer())
    cache.encode(["a", "bb"])
    assert cache["a"].embeds.untyped_storage().nbytes() == 2 * 3 * 4
