"""Training that begins with a text-space slider in the text encoders' LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.program.adapter_layers.trained_text import TrainedText
from loba_tui.core.program.closed_form.find_direction import (
    DirectionOptions,
    find_direction,
    prompts_to_fit,
)
from loba_tui.core.program.closed_form.solved_run import put_text_weights
from loba_tui.core.program.closed_form.text_direction import TextMove
from loba_tui.core.program.spread import spread
from loba_tui.core.recipe.sections.method import Concept

MOST_PROMPTS = 16
"""Prompts that a text-space slider's LoRA is fitted to, spread over all of the concepts'."""


def start_from_text_space(
    text: TrainedText,
    container: ModelContainer,
    embeds: Mapping[str, PromptEmbeds],
    concepts: Sequence[Concept],
    options: DirectionOptions,
    seed: int,
) -> None:
    """Give the text encoders' LoRA the text-space slider for its first weights.

    Layers without a LoRA are left out, as the projection of the pooled state is.

    Raises:
        RecipeError: Positive and negative prompts say the same.
    """
    direction = find_direction(container, embeds, concepts, options)
    with text.at(0.0):
        prompts = spread(prompts_to_fit(concepts), MOST_PROMPTS)
        move = TextMove(direction, container, prompts, seed)
    put_text_weights(text.encoders, move.solution.lora)
