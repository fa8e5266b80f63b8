"""Where a searched vector stands: in place of a word's token, or of the states that are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_files.text_encoders import ScaledEmbeddings
from loba_tui.core.program.evaluation.attacks.nearest import nearest
from loba_tui.core.program.evaluation.attacks.subject import Subject
from loba_tui.core.program.evaluation.eraser_effect import JUDGED_SCALE


class Place(Protocol):
    """Turns searched vectors into what the denoiser reads."""

    def start(self, generator: torch.Generator, number: int) -> list[Tensor]:
        """Return the vectors that a search begins with; the first one from the word itself."""

    def rows(self, vectors: Sequence[Tensor], prompts: Sequence[str]) -> PromptEmbeds:
        """Return a row of each prompt with the vectors in their place, gradients kept."""

    def close(self) -> None:
        """Leave the text encoders as they were found."""


class TokenPlace:
    """The embeddings of the word's tokens, of each text encoder, whatever prompt they stand in."""

    def __init__(self, subject: Subject) -> None:
        """Bring the text encoders, at the strength that is judged.

        Raises:
            RecipeError: The word has no token of its own.
        """
        container = subject.container
        container.require(*container.text_encoders)
        self._container = container
        parts = container.pipeline.components
        names = [name for name in container.text_encoders if parts[name] is not None]
        self._layers: list[nn.Module] = [parts[name].get_input_embeddings() for name in names]
        self._ids = [container.word_tokens(subject.word, name) for name in names]
        if not all(self._ids):
            raise RecipeError(f"proof.attacks.word: {subject.word!r} has no token")
        self._stack = ExitStack()
        given = subject.embeds
        if isinstance(given, ScaledEmbeddings):
            self._stack.enter_context(given.encoding_at(JUDGED_SCALE))

    def start(self, generator: torch.Generator, number: int) -> list[Tensor]:
        """Return the word's own embeddings (K, D) of each encoder.

        Later starts have the nearest tokens in place of the last one, which has read the others.
        """
        tables = [layer.weight for layer in self._layers]
        vectors = []
        for table, own in zip(tables, self._ids, strict=True):
            ids = list(own)
            if number:
                # Encoders of the same tokens begin with the same token, near to the first one's.
                judge = tables[0] if own == self._ids[0] else table
                ids[-1] = nearest(judge, ids[-1])[number - 1]
            vectors.append(table[torch.tensor(ids, device=table.device)].detach().float())
        return vectors

    def rows(self, vectors: Sequence[Tensor], prompts: Sequence[str]) -> PromptEmbeds:
        """Return prompts as the encoders read them with the vectors for the word."""
        with ExitStack() as stack:
            for ids, layer, vector in zip(self._ids, self._layers, vectors, strict=True):
                stack.enter_context(_in_place_of(ids, layer, vector))
            return self._container.encode_prompts(prompts, with_grad=torch.is_grad_enabled())

    def close(self) -> None:
        """Give the encoders their former strength."""
        self._stack.close()


class StatesPlace:
    """All states and the pooled state of each prompt, a vector of its own for each."""

    def __init__(self, subject: Subject, prompts: Sequence[str]) -> None:
        self._prompts = list(prompts)
        self._own = subject.encoded(prompts)

    def start(self, generator: torch.Generator, number: int) -> list[Tensor]:
        """Return the prompts' own states (P, T, D), and pooled states (P, D) if there are any.

        Later starts are half as far off as the states are long.
        """
        own = [self._own.embeds, *([] if self._own.pooled is None else [self._own.pooled])]
        states = [part.detach().float() for part in own]
        if not number:
            return states
        return [
            part + 0.5 * part.std() * torch.randn(part.shape, generator=generator).to(part)
            for part in states
        ]

    def rows(self, vectors: Sequence[Tensor], prompts: Sequence[str]) -> PromptEmbeds:
        """Return the states of these prompts."""
        numbers = [self._prompts.index(prompt) for prompt in prompts]
        pooled = vectors[1][numbers] if len(vectors) > 1 else None
        return replace(self._own[numbers], embeds=vectors[0][numbers], pooled=pooled, texts=())

    def close(self) -> None:
        """Leave the text encoders, which it has not changed."""


@contextmanager
def _in_place_of(ids: Sequence[int], layer: nn.Module, vectors: Tensor) -> Iterator[None]:
    """Have an embedding layer answer vectors (K, D) wherever these K tokens follow each other."""

    def put(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        tokens = args[0]
        found = tokens.unfold(-1, len(ids), 1) == torch.tensor(ids, device=tokens.device)
        rows, starts = found.all(dim=-1).nonzero(as_tuple=True)
        changed = output.clone()
        for number, vector in enumerate(vectors.to(output)):
            changed[rows, starts + number] = vector
        return changed

    handle: Callable[[], None] = layer.register_forward_hook(put).remove
    try:
        yield
    finally:
        handle()
