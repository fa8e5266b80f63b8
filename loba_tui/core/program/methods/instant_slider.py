"""Instant slider: a slider in closed form, without a training step or a denoiser forward.

Cross-attention is edited so that it reads a neutral prompt as leaning towards the positive one: the
closed form of Unified Concept Editing (Gandikota et al. 2023, https://arxiv.org/abs/2308.14761)
with the direction of Concept Sliders (https://arxiv.org/abs/2311.12092) read off the text encoder.

    W' − W = W · (Σ g d cᵀ)(λI + Σ c cᵀ + p Σ r rᵀ)⁻¹,   d = h(positive) − h(negative)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from loba_tui.core.program.closed_form.prompt_states import PromptStates, text_projections
from loba_tui.core.program.closed_form.slider import slider_pairs, slider_update
from loba_tui.core.program.closed_form.solution import (
    Solution,
    Solver,
    SolverParts,
    layer_updates,
    most_ranks,
)

REQUIRES = ("target", "positive", "negative")
SOLVES = True


def get_method(
    parts: SolverParts,
    *,
    tokens: Literal["concept", "prompt", "all"] = "prompt",
    identity_weight: PositiveFloat = 0.05,
    preserve_weight: NonNegativeFloat = 0.0,
    rank: PositiveInt | None = None,
) -> Solver:
    """Return the instant slider; a concept's guidance g is its strength at scale 1.

    Args:
        parts: What the method works with.
        tokens: Which hidden states are edited: "concept" those of the words that differ, "prompt"
            all words and the end token, "all" the padding too.
        identity_weight: λ, how hard all that is not named is held in place.
        preserve_weight: p, how hard the tokens of the preserve prompts are; they share words with
            the edited prompts, so that even a little of it takes much of the effect.
        rank: Cut each layer's update to this rank; null keeps all of it.
    """
    return InstantSlider(
        parts,
        tokens=tokens,
        identity_weight=identity_weight,
        preserve_weight=preserve_weight,
        rank=rank,
    )


class InstantSlider:
    """Solves for the slider's update of every layer that reads the prompt."""

    def __init__(
        self,
        parts: SolverParts,
        *,
        tokens: Literal["concept", "prompt", "all"],
        identity_weight: float,
        preserve_weight: float,
        rank: int | None,
    ) -> None:
        self._parts = parts
        self._tokens = tokens
        self._identity_weight = identity_weight
        self._preserve_weight = preserve_weight
        self._rank = rank
        self._projections = text_projections(parts.container)

    def most_ranks(self) -> Mapping[str, int]:
        """Return each layer's rank if no two edited states were alike."""
        states = PromptStates(self._parts.container, self._parts.embeds, self._tokens)
        num_states = states.num_distinct(slider_pairs(self._parts.concepts))
        return most_ranks(self._projections, num_states, self._rank)

    def solve(self) -> Solution:
        """Return the slider, with how much of the wanted change it makes on the edited states."""
        parts = self._parts
        edit, update = slider_update(
            parts.container,
            parts.embeds,
            parts.concepts,
            positions=self._tokens,
            identity_weight=self._identity_weight,
            preserve_weight=self._preserve_weight,
        )
        layers = layer_updates(update, self._projections, self._rank)
        return Solution(layers, {"states": len(edit.states), "unsolved": edit.unsolved(update)})
