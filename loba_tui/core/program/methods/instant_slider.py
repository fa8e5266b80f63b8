"""Instant slider: a slider in closed form, without a training step or a denoiser forward.

Cross-attention is edited so that it reads a neutral prompt as leaning towards the positive one: the
closed form of Unified Concept Editing (Gandikota et al. 2023, https://arxiv.org/abs/2308.14761)
with the direction of Concept Sliders (https://arxiv.org/abs/2311.12092) read off the text encoder.

    W' − W = W · (Σ g d cᵀ)(λI + Σ c cᵀ + p Σ r rᵀ)⁻¹,   d = h(positive) − h(negative)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from loba_tui.core.program.closed_form.linear_edit import solve
from loba_tui.core.program.closed_form.prompt_states import PromptStates
from loba_tui.core.program.closed_form.slider import slider_pairs
from loba_tui.core.program.closed_form.solution import (
    Solution,
    Solver,
    SolverParts,
    layer_updates,
    most_ranks,
)

REQUIRES = ("target", "positive", "negative")
SOLVES = True


@dataclass(frozen=True, kw_only=True)
class InstantSliderOptions:
    """Options of the instant slider.

    Attributes:
        tokens: Which hidden states are edited: "concept" those of the words that differ, "prompt"
            all words and the end token, "all" the padding too.
        identity_weight: λ, how hard all that is not named is held in place.
        preserve_weight: p, how hard the tokens of the preserve prompts are; they share words with
            the edited prompts, so that even a little of it takes much of the effect.
        rank: Cut each layer's update to this rank; null keeps all of it.
    """

    tokens: Literal["concept", "prompt", "all"] = "prompt"
    identity_weight: PositiveFloat = 0.05
    preserve_weight: NonNegativeFloat = 0.0
    rank: PositiveInt | None = None


def get_method(parts: SolverParts, *, options: InstantSliderOptions) -> Solver:
    """Return the instant slider; a concept's guidance g is its strength at scale 1."""
    return InstantSlider(parts, options)


class InstantSlider:
    """Solves for the slider's update of every layer that reads the prompt."""

    def __init__(self, parts: SolverParts, options: InstantSliderOptions) -> None:
        self._concepts, self._options = parts.concepts, options
        self._states = PromptStates(parts.container, parts.embeds, options.tokens)
        self._projections = parts.container.text_projections()

    def most_ranks(self) -> Mapping[str, int]:
        """Return each layer's rank if no two edited states were alike."""
        num_states = self._states.num_distinct(slider_pairs(self._concepts))
        return most_ranks(self._projections, num_states, self._options.rank)

    def solve(self) -> Solution:
        """Return the slider, with how much of the wanted change it makes on the edited states."""
        options, edit = self._options, self._states.edit(slider_pairs(self._concepts))
        update = solve(
            edit,
            self._states.preserved(self._concepts) if options.preserve_weight else None,
            preserve_weight=options.preserve_weight,
            identity_weight=options.identity_weight,
        )
        layers = layer_updates(update, self._projections, options.rank)
        figures = {"states": len(edit.states), "unsolved": edit.unsolved(update)}
        return Solution(layers, figures=figures)
