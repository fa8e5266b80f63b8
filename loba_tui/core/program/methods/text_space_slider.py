"""Text-space slider: one constant that is added to what the text encoders say, without training.

The embeddings of every prompt move along the mean of h(positive) − h(negative), pooled state
included. Moving along directions between prompts is the idea of Prompt Sliders (Sridhar and
Vasconcelos 2024, https://arxiv.org/abs/2409.16535) and of latent directions before it; a constant
for all tokens is a change of the last bias, so that its exact file is a few kilobytes. No forward
of the denoiser is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.closed_form.solution import Solution, Solver, SolverParts
from loba_tui.core.program.closed_form.text_direction import Direction, TextMove
from loba_tui.core.program.closed_form.token_positions import match_tokens, padding
from loba_tui.core.program.spread import spread
from loba_tui.core.recipe.schema import Concept

REQUIRES = ("target", "positive", "negative")
SOLVES = True
TEXT_ONLY = True

_MOST_PROMPTS = 32


@dataclass(frozen=True, kw_only=True)
class TextSpaceSliderOptions:
    """Options of the text-space slider.

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


def get_method(parts: SolverParts, *, options: TextSpaceSliderOptions) -> Solver:
    """Return the text-space slider; a concept's guidance is its weight among the others."""
    return TextSpaceSlider(parts, options)


class TextSpaceSlider:
    """Finds the direction, and the changes of the text encoders that add it."""

    def __init__(self, parts: SolverParts, options: TextSpaceSliderOptions) -> None:
        self._parts, self._options = parts, options

    def most_ranks(self) -> Mapping[str, int]:
        """Return nothing: the denoiser has no adapter."""
        return {}

    def solve(self) -> Solution:
        """Return the changes, with the direction's length and how far the LoRA is from it."""
        direction = self.direction()
        named = [
            text
            for concept in self._parts.concepts
            for text in (concept.target, concept.positive, concept.negative)
            if text is not None
        ]
        prompts = spread(list(dict.fromkeys(named)), _MOST_PROMPTS)
        move = TextMove(direction, self._parts.container, prompts, self._parts.seed)
        figures = {"length": float(direction.states.norm()), "lora_error": move.lora_error}
        return Solution({}, text=move.solution, figures=figures)

    def direction(self) -> Direction:
        """Return what is added at scale 1.

        Raises:
            RecipeError: Positive and negative prompts say the same.
        """
        options, concepts = self._options, self._parts.concepts
        weights = torch.tensor([concept.guidance for concept in concepts], dtype=torch.float64)
        changes = torch.stack([self._change(concept) for concept in concepts])
        states = options.strength * _aggregate(changes, weights, options.aggregate)
        if not bool(states.any()):
            raise RecipeError(
                "method.concepts: positive and negative prompts say the same to this model",
                "Compare the concepts' prompts; they have to differ in words that it knows.",
            )
        return Direction(states, self._pooled(weights))

    def _pooled(self, weights: Tensor) -> Tensor | None:
        differences = []
        for concept in self._parts.concepts:
            up, down = (self._row(each).pooled for each in (concept.positive, concept.negative))
            if up is None or down is None:
                return None
            differences.append((up - down)[0].double().cpu())
        share = self._options.strength * self._options.pooled
        return share * _aggregate(torch.stack(differences), weights, self._options.aggregate)

    def _row(self, prompt: str | None) -> PromptEmbeds:
        assert prompt is not None, "REQUIRES says that both are there"
        return self._parts.embeds[prompt]

    def _change(self, concept: Concept) -> Tensor:
        """Return the difference (D,) of a concept's two prompts, float64."""
        up, down = (
            self._row(prompt).embeds[0].double().cpu()
            for prompt in (concept.positive, concept.negative)
        )
        texts = [str(concept.positive), str(concept.negative)]
        others, tokens = self._parts.container.tokenize(texts)
        if self._options.align == "mean":
            return up[1 : len(others)].mean(0) - down[1 : len(tokens)].mean(0)
        matches = [match for match in match_tokens(tokens, others) if match.same_word]
        if self._options.align == "padded":
            matches += padding(tokens, others, len(down))
        # The end stands for a whole prompt, and is in every one.
        if self._options.align == "end" or not matches:
            return up[len(others) - 1] - down[len(tokens) - 1]
        return torch.stack([up[match.target] - down[match.source] for match in matches]).mean(0)


def _aggregate(changes: Tensor, weights: Tensor, how: str) -> Tensor:
    """Return one direction (D,) for many (N, D)."""
    mean = (weights[:, None] * changes).mean(0)
    if how == "mean":
        return mean
    _, _, directions = torch.linalg.svd(weights[:, None] * changes, full_matrices=False)
    return directions[0] * (mean @ directions[0])
