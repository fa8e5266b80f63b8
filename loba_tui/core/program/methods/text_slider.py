"""Text sliders: one adapter moves one concept up and down, taught by the base model's own words.

Concept Sliders, Gandikota et al. 2023, https://arxiv.org/abs/2311.12092, with two differences: both
signs are trained, where the reference leaves the negative side to extrapolation, and preserve
prompts are held in place by a term of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor

from loba_tui.core.errors import RecipeError
from loba_tui.core.option_types import NonZeroFloat, UnitFloat
from loba_tui.core.program.closed_form.find_direction import DirectionOptions
from loba_tui.core.program.closed_form.slider import start_from_instant
from loba_tui.core.program.closed_form.text_start import start_from_text_space
from loba_tui.core.program.method import Method, MethodParts
from loba_tui.core.program.objectives.concepts import (
    ConceptMethod,
    ConceptObjective,
    ConceptOptions,
    Roles,
)
from loba_tui.core.recipe.sections.method import Concept

REQUIRES = ("target", "positive", "negative")
EMPTY_TARGET = True


@dataclass(frozen=True, kw_only=True)
class TextSliderOptions(ConceptOptions):
    """Options of the text slider.

    Attributes:
        rollout_scale: Strength of the adapter during rollouts: the reference has 1, and 0 needs no
            extra forwards for "rolling".
        scales: Strengths m that are trained, each towards neutral + m·g·(positive − negative).
        rescale_target: Scale the target to the norm of the neutral prediction.
        warm_start: "text_space" begins with that method's slider in the text encoders' LoRA, so
            that the denoiser's adapter learns what it lacks; "instant" with the instant slider, cut
            to the adapter's rank, in the layers that read the prompt; null with the base model.
        text_strength: Share of positive − negative that "text_space" adds to the states at scale 1.
    """

    rollout_scale: float = 0.0
    scales: tuple[NonZeroFloat, ...] = (-1.0, 1.0)
    preserve_share: UnitFloat = 0.25
    rescale_target: bool = False
    warm_start: Literal["text_space", "instant"] | None = None
    text_strength: PositiveFloat = 0.4


def get_method(parts: MethodParts, *, options: TextSliderOptions) -> Method:
    """Return the text slider."""
    if options.rollout_scale and options.trajectories == "bank":
        raise RecipeError(
            "method.rollout_scale: a bank is made once, by the base model alone",
            "Leave rollout_scale at 0, or take method.trajectories: rolling.",
        )
    return TextSlider(parts, options)


class TextSlider(ConceptMethod):
    """Trains ε_m(x_t, target) towards sg[ε₀(neutral) + m·g·(ε₀(positive) − ε₀(negative))]."""

    def __init__(self, parts: MethodParts, options: TextSliderOptions) -> None:
        objective = ConceptObjective(
            "slider",
            _roles,
            lambda concept: concept.target,
            _rescaled if options.rescale_target else _target,
            strengths=options.scales,
            order=("positive", "negative", "neutral", "target", "preserve", "empty"),
        )
        super().__init__(parts, objective, options, rollout_scale=options.rollout_scale)
        self._options = options

    def start_warm(self) -> None:
        """Set the adapter's first weights, if the recipe asks for others than the base model's."""
        parts, options = self._parts, self._options
        if options.warm_start == "instant":
            start_from_instant(parts.container, parts.embeds, parts.concepts)
        elif options.warm_start == "text_space":
            assert parts.text is not None, "the recipe's check asks for adapter.text_encoders"
            direction = DirectionOptions(strength=options.text_strength)
            start_from_text_space(
                parts.text, parts.container, parts.embeds, parts.concepts, direction, parts.seed
            )


def _roles(concept: Concept) -> Roles:
    return {
        "positive": concept.positive,
        "negative": concept.negative,
        "neutral": concept.target if concept.neutral is None else concept.neutral,
    }


def _target(teacher: Mapping[str, Tensor], strength: Tensor) -> Tensor:
    return teacher["neutral"] + strength * (teacher["positive"] - teacher["negative"])


def _rescaled(teacher: Mapping[str, Tensor], strength: Tensor) -> Tensor:
    target = _target(teacher, strength)
    return target * (_norm(teacher["neutral"]) / _norm(target).clamp_min(1e-8))


def _norm(prediction: Tensor) -> Tensor:
    """Return the L2 norm of each row of (B, C, H, W) as (B, 1, 1, 1)."""
    return prediction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
