"""Text-encoder slider: a LoRA on the text encoders learns a direction of prompts, both signs.

Text Slider (Chiu et al. 2025, https://arxiv.org/abs/2509.18831) trains text encoders alone, so
that a step takes no forward of the denoiser. Here the encoders with the adapter at strength m are
to say of a prompt what the base says of it, moved by m times the direction d of text_space_slider,
and of a preserve prompt what the base says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.option_types import NonZeroFloat
from loba_tui.core.program import randomness
from loba_tui.core.program.adapter_layers.trained_text import TrainedText
from loba_tui.core.program.closed_form.find_direction import (
    DirectionOptions,
    find_direction,
)
from loba_tui.core.program.closed_form.text_direction import Direction
from loba_tui.core.program.closed_form.text_start import start_from_text_space
from loba_tui.core.program.method import Method, MethodParts, StepOutput

REQUIRES = ("target", "positive", "negative")
TEXT_ONLY = True


@dataclass(frozen=True, kw_only=True)
class TextEncoderSliderOptions(DirectionOptions):
    """Options of the text-encoder slider.

    Attributes:
        scales: Strengths m that are trained; the rows of the batch take them in turn.
        preserve_weight: Weight of the term that holds preserve prompts.
        warm_start: "text_space" begins with the LoRA that text_space_slider computes; null with the
            base model.
    """

    scales: tuple[NonZeroFloat, ...] = (-1.0, 1.0)
    preserve_weight: NonNegativeFloat = 1.0
    warm_start: Literal["text_space"] | None = None


def get_method(parts: MethodParts, *, options: TextEncoderSliderOptions) -> Method:
    """Return the text-encoder slider."""
    return TextEncoderSlider(parts, options)


class TextEncoderSlider:
    """Trains ‖h_m(c) − h₀(c) − m d‖² / ‖d‖² + p ‖h_m(r) − h₀(r)‖² / ‖d‖², pooled states too."""

    def __init__(self, parts: MethodParts, options: TextEncoderSliderOptions) -> None:
        self._parts, self._options = parts, options
        self._direction = find_direction(parts.container, parts.embeds, parts.concepts, options)
        self._preserve = list(dict.fromkeys(p for c in parts.concepts for p in c.preserve))

    def start_warm(self) -> None:
        """Set the adapter's first weights, if the recipe asks for others than the base model's."""
        parts = self._parts
        if self._options.warm_start == "text_space":
            start_from_text_space(
                self._text,
                parts.container,
                parts.embeds,
                parts.concepts,
                self._options,
                parts.seed,
            )

    def step(self, index: int, progress: float) -> StepOutput:
        """Return the loss of one micro-step."""
        prompts = self._drawn([concept.target for concept in self._parts.concepts], index, "rows")
        loss, far = self._loss(prompts, index, self._direction)
        metrics = {"text_loss": loss.detach(), "text_error": far.detach().sqrt()}
        if self._preserve and self._options.preserve_weight:
            held, _ = self._loss(self._drawn(self._preserve, index, "preserve"), index, None)
            metrics["preserve_loss"] = held.detach()
            loss = loss + self._options.preserve_weight * held
        return StepOutput(loss, metrics)

    def _drawn(self, prompts: Sequence[str], index: int, use: str) -> list[str]:
        """Return this process's prompts of a micro-step; each comes as often as the others."""
        parts = self._parts
        size = parts.batch_size * parts.num_processes
        drawn = []
        for number in range(size * index + parts.rank, size * (index + 1), parts.num_processes):
            turn, place = divmod(number, len(prompts))
            source = randomness.generator(parts.seed, use, turn)
            drawn.append(prompts[int(torch.randperm(len(prompts), generator=source)[place])])
        return drawn

    def _loss(
        self, prompts: Sequence[str], index: int, direction: Direction | None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of rows that move by m d or not at all, and that of states alone."""
        parts, scales = self._parts, self._options.scales
        strengths = [
            scales[(parts.rank + row * parts.num_processes) % len(scales)]
            for row in range(len(prompts))
        ]
        base = parts.select(prompts)
        student = self._text.of_student(base, torch.tensor(strengths))
        rows = [
            base[n] if direction is None else direction.moved(base[n], strength)
            for n, strength in enumerate(strengths)
        ]
        wanted = PromptEmbeds.cat(rows)
        size = self._direction
        states = (student.embeds.float() - wanted.embeds.float()).square().sum(-1).mean()
        states = states / float(size.states.square().sum())
        if student.pooled is None or wanted.pooled is None or size.pooled is None:
            return states, states
        length = float(size.pooled.square().sum())
        if not length:  # the recipe leaves the pooled state out
            return states, states
        pooled = (student.pooled.float() - wanted.pooled.float()).square().sum(-1).mean() / length
        return states + pooled, states

    @property
    def _text(self) -> TrainedText:
        text = self._parts.text
        assert text is not None, "TEXT_ONLY has the text encoders trained"
        return text

    def state(self) -> dict[str, Tensor]:
        """Return nothing: prompts are drawn by the step's number."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take nothing back."""
