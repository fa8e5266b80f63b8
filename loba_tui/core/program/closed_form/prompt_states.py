"""Hidden states of prompts, token by token, as the closed forms edit and preserve them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.closed_form.linear_edit import Edit, condensed
from loba_tui.core.program.closed_form.token_positions import Match, match_tokens, padding
from loba_tui.core.program.spread import spread
from loba_tui.core.recipe.sections.method import Concept

Positions = Literal["concept", "end", "prompt", "all"]
"""Which tokens of a prompt are edited: those of the words that differ; the end token too, which has
read the whole prompt; all of its words as well; or the padding too, which cross-attention reads."""

_MOST_PADDING = 12
"""Of a prompt's padding, so many states are looked at."""


@dataclass(frozen=True)
class Pair:
    """A prompt whose states are edited by strength · (states of `towards` − states of `away`).

    `away` is None where it is the prompt itself.
    """

    prompt: str
    towards: str
    away: str | None = None
    strength: float = 1.0


class PromptStates:
    """Lays prompts side by side and picks their hidden states."""

    def __init__(
        self,
        container: ModelContainer,
        embeds: Mapping[str, PromptEmbeds],
        positions: Positions,
    ) -> None:
        """Take the prompts' embeddings, one row each, and which tokens count."""
        self._container = container
        self._embeds = embeds
        self._positions = positions
        self._tokens: dict[str, list[int]] = {}

    def edit(self, pairs: Sequence[Pair], owners: Sequence[int] | None = None) -> Edit:
        """Return states and changes of all pairs, one row a token.

        Args:
            owners: Which concept each pair is of; None: each is one by itself.

        Raises:
            RecipeError: No token is to be edited at all.
        """
        states, guides, aways, strengths, owned = [], [], [], [], []
        for pair, owner in zip(pairs, owners or range(len(pairs)), strict=True):
            own, towards = self._stored(pair.prompt), self._stored(pair.towards)
            away = own if pair.away is None else self._stored(pair.away)
            for position, to, back in self._rows(pair):
                states.append(own[position])
                guides.append(towards[to])
                aways.append(away[back])
                strengths.append(pair.strength)
                owned.append(owner)
        if not states:
            raise RecipeError(
                "method.concepts: none of the prompts' tokens is to be edited",
                "The prompts need words that differ in the same place, or take tokens: prompt.",
            )
        changes = _exact(torch.stack(guides)) - _exact(torch.stack(aways))
        weights = torch.tensor(strengths, dtype=torch.float64)[:, None]
        return Edit(_exact(torch.stack(states)), weights * changes, tuple(owned))

    def preserved(
        self, concepts: Sequence[Concept], *, takes_padding: bool | None = None
    ) -> Tensor:
        """Return the states r (M, D) of the tokens of the concepts' preserve prompts.

        The start token is among them, once: it is the same in every prompt, and most of a
        cross-attention's weight rests on it.

        Args:
            concepts: Whose preserve prompts.
            takes_padding: With the padding; None takes it where padding is edited.
        """
        if takes_padding is None:
            takes_padding = self._positions == "all"
        rows = [self._none()]
        for prompt in _preserve_prompts(concepts):
            states = self._stored(prompt)
            end = len(states) if takes_padding else len(self._ids(prompt))
            rows.append(_exact(states[(0 if len(rows) == 1 else 1) : end]))
        return torch.cat(rows)

    def preserved_padding(self, concepts: Sequence[Concept]) -> Tensor:
        """Return rows that stand for the padding's states of the preserve prompts (`condensed`).

        They change little from one to the next, so that a prompt's own stand for more of them.
        """
        prompts = _preserve_prompts(concepts)
        return condensed([self._none(), *map(self._padding, prompts)])

    def heard(self, prompt: str) -> Tensor:
        """Return rows (T, D) of as much length as all that a prompt has after its start token."""
        words = _exact(self._stored(prompt)[1 : len(self._ids(prompt))])
        return torch.cat([words, self._padding(prompt)])

    def _padding(self, prompt: str) -> Tensor:
        tail = self._stored(prompt)[len(self._ids(prompt)) :]
        taken = spread(range(len(tail)), _MOST_PADDING)
        return _exact(tail[taken]) * (len(tail) / max(1, len(taken))) ** 0.5

    def of(self, prompt: str) -> Tensor:
        """Return a prompt's states (T, D), in float64 on the CPU."""
        return _exact(self._stored(prompt))

    def _stored(self, prompt: str) -> Tensor:
        """Return what the edited layers read of a prompt's states (T, D), as it is held."""
        (states,) = self._embeds[prompt].rows()
        return self._container.projected_states(states)

    def _none(self) -> Tensor:
        width = next(iter(self._embeds.values())).embeds.shape[-1]
        return torch.zeros(0, width, dtype=torch.float64)

    def num_distinct(self, pairs: Sequence[Pair]) -> int:
        """Return how many different states the pairs can edit at most.

        In a causal encoder a state depends on the tokens up to it alone.
        """
        seen = set()
        for pair in pairs:
            prompts = (pair.prompt, pair.towards, pair.away or pair.prompt)
            for positions in self._rows(pair):
                read = zip(prompts, positions, strict=True)
                seen.add(tuple((at, *self._ids(prompt)[: at + 1]) for prompt, at in read))
        return len(seen)

    def _rows(self, pair: Pair) -> Iterator[tuple[int, int, int]]:
        """Yield the position of each edited token, and of its counterparts."""
        away = pair.prompt if pair.away is None else pair.away
        to = self._matches(pair.prompt, pair.towards)
        back = {match.source: match for match in self._matches(pair.prompt, away)}
        for match in to:
            if match.source not in back:
                continue
            other = back[match.source]
            if match.same_word and other.same_word and not self._takes(pair.prompt, match.source):
                continue
            yield match.source, match.target, other.target

    def _takes(self, prompt: str, position: int) -> bool:
        """Whether the state of a word that stays the same is edited."""
        if self._positions == "end":
            return position == len(self._ids(prompt)) - 1
        return self._positions != "concept"

    def _matches(self, prompt: str, other: str) -> list[Match]:
        tokens, others = self._ids(prompt), self._ids(other)
        matches = match_tokens(tokens, others)
        if self._positions == "all":
            length = self._stored(prompt).shape[0]
            matches += padding(tokens, others, length)
        return matches

    def _ids(self, prompt: str) -> list[int]:
        if prompt not in self._tokens:
            (self._tokens[prompt],) = self._container.tokenize([prompt])
        return self._tokens[prompt]


def _exact(states: Tensor) -> Tensor:
    """Return states in float64 on the CPU; what is picked first is far less to convert."""
    return states.double().cpu()


def _preserve_prompts(concepts: Sequence[Concept]) -> list[str]:
    return list(dict.fromkeys(prompt for concept in concepts for prompt in concept.preserve))
