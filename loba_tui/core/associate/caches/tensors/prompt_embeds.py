"""Encode every prompt of a run once, so that the text encoders can go before training starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import torch

from loba_tui.core.associate.caches.tensors.store import TensorStore
from loba_tui.core.associate.embeds import PromptEmbeds

_CONTIGUOUS = torch.contiguous_format
MOST_ON_DEVICE = 64 * 2**20
"""Bytes: some 200 prompts of SD-XL in half precision."""
_ENCODED_AT_ONCE = 256
"""Prompts that are encoded before they are written: what is written survives a stop."""


class EncodesPrompts(Protocol):
    """A container, as far as it is used here."""

    @property
    def device(self) -> torch.device:
        """Where its rows are."""

    def encode_alone(self, prompts: Sequence[str]) -> Sequence[PromptEmbeds]:
        """Return one row a prompt, to the bit as if no other were encoded."""


class PromptEmbedCache(Mapping[str, PromptEmbeds]):
    """Embeddings by prompt, one row each, given on the container's device.

    As many rows as prompts that a slider has stay there. The captions of a large data set wait in
    main memory, pinned for CUDA, and a row that is asked for is copied without being waited for.

    Each prompt is encoded as if alone: else its bits would depend on how many others there are,
    and so on what a store happens to have.

    Args:
        store: Where rows are kept between runs, of the kind "embeds", with the
            `producer_fingerprint` of tokenizers and text encoders; None keeps them in memory only.
        most_on_device: Bytes of rows that stay on an accelerator.
    """

    def __init__(
        self,
        container: EncodesPrompts,
        store: TensorStore | None = None,
        *,
        most_on_device: int = MOST_ON_DEVICE,
    ) -> None:
        self._container = container
        self._store = store
        self._free_bytes = most_on_device
        self._rows: dict[str, PromptEmbeds] = {}

    def encode(self, prompts: Iterable[str]) -> None:
        """Take those prompts that are not there yet from the store, or encode them."""
        wanted = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._rows]
        found: dict[str, PromptEmbeds] = {}
        for prompt in wanted:
            if (row := self._kept(prompt)) is not None:
                found[prompt] = self._placed(row)
        missing = [prompt for prompt in wanted if prompt not in found]
        for start in range(0, len(missing), _ENCODED_AT_ONCE):
            some = missing[start : start + _ENCODED_AT_ONCE]
            for prompt, row in zip(some, self._container.encode_alone(some), strict=True):
                found[prompt] = self._placed(self._keep(prompt, row))
        self._rows.update({prompt: found[prompt].of(prompt) for prompt in wanted})

    def batch(self, prompts: Iterable[str]) -> PromptEmbeds:
        """Return the rows of these prompts, encoding what is missing."""
        wanted = list(prompts)
        self.encode(wanted)
        return PromptEmbeds.cat([self[prompt] for prompt in wanted])

    def __getitem__(self, prompt: str) -> PromptEmbeds:
        row, device = self._rows[prompt], self._container.device
        return row if row.embeds.device == device else row.to(device, non_blocking=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def _kept(self, prompt: str) -> PromptEmbeds | None:
        if self._store is None:
            return None
        found = self._store.get(_key(self._store, prompt))
        if found is None or "embeds" not in found:
            return None
        row = PromptEmbeds(found["embeds"], found.get("pooled"), lengths=found.get("lengths"))
        return row

    def _placed(self, row: PromptEmbeds) -> PromptEmbeds:
        """Return a row where it is to wait: on the device while there is room for it."""
        device = self._container.device
        if device.type == "cpu" or row.num_bytes <= self._free_bytes:
            self._free_bytes -= row.num_bytes
            return row.to(device)
        return row.pinned() if device.type == "cuda" else row.to("cpu")

    def _keep(self, prompt: str, made: PromptEmbeds) -> PromptEmbeds:
        # Laid out as what comes from the store: kernels may depend on it.
        pooled = None if made.pooled is None else made.pooled.clone(memory_format=_CONTIGUOUS)
        embeds = made.embeds.clone(memory_format=_CONTIGUOUS)
        row = PromptEmbeds(embeds, pooled, lengths=made.lengths)
        if self._store is not None:
            tensors = {"embeds": row.embeds}
            if row.pooled is not None:
                tensors["pooled"] = row.pooled
            if row.lengths is not None:
                tensors["lengths"] = row.lengths
            self._store.put(_key(self._store, prompt), tensors, describe={"prompt": prompt})
        return row


def has_all(store: TensorStore | None, prompts: Iterable[str]) -> bool:
    """Say whether a store seems to have every prompt, so that no encoder has to be loaded."""
    return store is not None and all(store.has(_key(store, prompt)) for prompt in prompts)


def _key(store: TensorStore, prompt: str) -> str:
    return store.key({"prompt": prompt})
