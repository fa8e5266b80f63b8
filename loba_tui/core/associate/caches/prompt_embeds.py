"""Encode every prompt of a run once, so that the text encoders can go before training starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping

from loba_tui.core.associate.containers.base import ModelContainer, PromptEmbeds


class PromptEmbedCache(Mapping[str, PromptEmbeds]):
    """Embeddings by prompt, one row each, on the container's device."""

    def __init__(
        self, container: ModelContainer, store: MutableMapping[str, PromptEmbeds] | None = None
    ) -> None:
        """Start from what a store has; nothing is encoded yet.

        Args:
            container: The model whose encoders are used.
            store: Where rows are kept by prompt; None keeps them in memory only.
        """
        self._container = container
        self._store = {} if store is None else store

    def encode(self, prompts: Iterable[str]) -> None:
        """Encode those prompts that are not there yet, each once, in one batch."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._store]
        if missing:
            rows = self._container.encode_prompts(missing)
            for index, prompt in enumerate(missing):
                # A copy, so that no row keeps the whole batch alive.
                row = rows[index]
                pooled = None if row.pooled is None else row.pooled.clone()
                self._store[prompt] = PromptEmbeds(row.embeds.clone(), pooled)

    def batch(self, prompts: Iterable[str]) -> PromptEmbeds:
        """Return the rows of these prompts, encoding what is missing."""
        wanted = list(prompts)
        self.encode(wanted)
        return PromptEmbeds.cat([self._store[prompt] for prompt in wanted])

    def __getitem__(self, prompt: str) -> PromptEmbeds:
        """Return the one row of a prompt that was encoded."""
        return self._store[prompt]

    def __iter__(self) -> Iterator[str]:
        """Yield prompts in the order they were encoded."""
        return iter(self._store)

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self._store)
