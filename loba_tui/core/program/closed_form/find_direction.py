"""The direction in the space of prompt embeddings that concepts' prompts point along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.closed_form.text_direction import Direction
from loba_tui.core.program.closed_form.token_positions import match_tokens, padding
from loba_tui.core.recipe.sections.method import Concept


@dataclass(frozen=True, kw_only=True)
class DirectionOptions:
    """Options of methods that work along a direction in text space.

    Attributes:
        align: Which states of two prompts are subtracted: "tokens" those of the same words and of
            the end; "padded" the padding's too; "end" those of the end alone; "mean" the means of
            all words.
        aggregate: "mean" of all differences, or their "principal" direction, as long as the mean is
            along it.
        strength: Share of the difference that is added at scale 1. A half goes from between both
            prompts to one of them.
        pooled: Share of that for the pooled state.
    """

    align: Literal["tokens", "padded", "end", "mean"] = "tokens"
    aggregate: Literal["mean", "principal"] = "mean"
    strength: PositiveFloat = 0.5
    pooled: NonNegativeFloat = 1.0


def find_direction(
    container: ModelContainer,
    embeds: Mapping[str, PromptEmbeds],
    concepts: Sequence[Concept],
    options: DirectionOptions,
) -> Direction:
    """Return what is added at scale 1; a concept's guidance is its weight among the others.

    Raises:
        RecipeError: Positive and negative prompts say the same.
    """
    weights = torch.tensor([concept.guidance for concept in concepts], dtype=torch.float64)
    differences, pooled = [], []
    pairs = [(str(concept.positive), str(concept.negative)) for concept in concepts]
    tokens = container.tokenize([prompt for pair in pairs for prompt in pair])
    for number, pair in enumerate(pairs):
        up, down = (embeds[prompt] for prompt in pair)
        own = tokens[2 * number : 2 * number + 2]
        differences.append(_of_states(up, down, own, options.align))
        if up.pooled is not None and down.pooled is not None:
            pooled.append((up.pooled - down.pooled)[0].double().cpu())
    states = options.strength * _aggregate(differences, weights, options.aggregate)
    if not bool(states.any()):
        raise RecipeError(
            "method.concepts: positive and negative prompts say the same to this model",
            "Compare the concepts' prompts; they have to differ in words that it knows.",
        )
    if not pooled:
        return Direction(states, None)
    share = options.strength * options.pooled
    return Direction(states, share * _aggregate(pooled, weights, options.aggregate))


def _of_states(
    up: PromptEmbeds, down: PromptEmbeds, tokens: Sequence[Sequence[int]], align: str
) -> Tensor:
    """Return the difference (D,) of two prompts with these token ids, float64."""
    high, low = (row.embeds[0].double().cpu() for row in (up, down))
    others, own = tokens
    if align == "mean":
        return high[1 : len(others)].mean(0) - low[1 : len(own)].mean(0)
    matches = [match for match in match_tokens(own, others) if match.same_word]
    if align == "padded":
        matches += padding(own, others, len(low))
    # The end stands for a whole prompt, and is in every one.
    if align == "end" or not matches:
        return high[len(others) - 1] - low[len(own) - 1]
    return torch.stack([high[match.target] - low[match.source] for match in matches]).mean(0)


def _aggregate(differences: Sequence[Tensor], weights: Tensor, how: str) -> Tensor:
    """Return one direction (D,) for many."""
    changes = weights[:, None] * torch.stack(list(differences))
    mean = changes.mean(0)
    if how == "mean":
        return mean
    _, _, directions = torch.linalg.svd(changes, full_matrices=False)
    return directions[0] * (mean @ directions[0])


def prompts_to_fit(concepts: Sequence[Concept]) -> list[str]:
    """Return the prompts of concepts, each once, whose inputs stand for what encoders read."""
    named = [text for c in concepts for text in (c.target, c.positive, c.negative)]
    return list(dict.fromkeys(text for text in named if text is not None))
