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

from loba_tui.core.program.closed_form.find_direction import (
    DirectionOptions,
    find_direction,
    prompts_to_fit,
)
from loba_tui.core.program.closed_form.solution import Solution, Solver, SolverParts
from loba_tui.core.program.closed_form.text_direction import Direction, TextMove
from loba_tui.core.program.closed_form.text_start import MOST_PROMPTS
from loba_tui.core.program.spread import spread

REQUIRES = ("target", "positive", "negative")
SOLVES = True
TEXT_ONLY = True


@dataclass(frozen=True, kw_only=True)
class TextSpaceSliderOptions(DirectionOptions):
    """Options of the text-space slider."""


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

    def direction(self) -> Direction:
        """Return what is added at scale 1."""
        parts = self._parts
        return find_direction(parts.container, parts.embeds, parts.concepts, self._options)

    def solve(self) -> Solution:
        """Return the changes, with the direction's length and how far the LoRA is from it."""
        direction = self.direction()
        prompts = spread(prompts_to_fit(self._parts.concepts), MOST_PROMPTS)
        move = TextMove(direction, self._parts.container, prompts, self._parts.seed)
        figures = {"length": float(direction.states.norm()), "lora_error": move.lora_error}
        return Solution({}, text=move.solution, figures=figures)
