"""The model-free figures of a recipe's adapter: its own concepts on held-out latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from loba_tui.core.associate.containers.base import ModelContainer, PromptEmbeds
from loba_tui.core.plugins import SHIPPED, Plugins
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.evaluation.efficacy import Efficacy, HeldOut, Yardstick, roll_out
from loba_tui.core.program.evaluation.erasure_efficacy import ErasureEfficacy, erasure_efficacy
from loba_tui.core.program.open_model import Embeddings, batch_of
from loba_tui.core.recipe.schema import Concept, Recipe

MAX_EFFICACY_CONCEPTS = 8


def make_yardstick(
    container: ModelContainer,
    scale: RowScale,
    recipe: Recipe,
    embeds: Embeddings,
    *,
    most: int = MAX_EFFICACY_CONCEPTS,
) -> Yardstick | None:
    """Return what model-free figures are read off, None where no concept says both directions.

    Args:
        container: The model, with the adapter attached.
        scale: Strength of that adapter.
        recipe: Names the concepts.
        embeds: Of all prompts of the concepts.
        most: Concepts and preserve prompts that are looked at, evenly spread over all of them.
    """
    pairs = [c for c in recipe.method.expanded_concepts() if c.positive and c.negative]
    if not pairs:
        return None
    concepts: Sequence[Concept] = spread(pairs, most)
    preserve = spread(list(dict.fromkeys(p for c in pairs for p in c.preserve)), most)
    target = batch_of(embeds, [concept.target for concept in concepts])
    return Yardstick(
        container,
        scale,
        roll_out_held(container, scale, recipe, target),
        target=target,
        positive=batch_of(embeds, [concept.positive or "" for concept in concepts]),
        negative=batch_of(embeds, [concept.negative or "" for concept in concepts]),
        preserve=batch_of(embeds, preserve) if preserve else None,
    )


def measure_efficacy(
    container: ModelContainer,
    scale: RowScale,
    recipe: Recipe,
    embeds: Embeddings,
    plugins: Plugins,
) -> Efficacy | ErasureEfficacy | None:
    """Return the model-free figures of an eraser or of a slider.

    None for a slider where no concept says positive and negative.
    """
    constants = plugins.describe("methods", recipe.method.name).constants
    if constants.get("ERASES"):
        return _measure_erasure_efficacy(container, scale, recipe, embeds)
    yardstick = make_yardstick(container, scale, recipe, embeds)
    return None if yardstick is None else yardstick.measure()


def _measure_erasure_efficacy(
    container: ModelContainer, scale: RowScale, recipe: Recipe, embeds: Embeddings
) -> ErasureEfficacy:
    concepts = spread(recipe.method.expanded_concepts(), MAX_EFFICACY_CONCEPTS)
    kept = dict.fromkeys(p for c in recipe.method.expanded_concepts() for p in c.preserve)
    preserve = spread(list(kept), MAX_EFFICACY_CONCEPTS)
    target = batch_of(embeds, [concept.target for concept in concepts])
    goals = [
        container.empty_embeds() if concept.neutral is None else embeds[concept.neutral]
        for concept in concepts
    ]
    return erasure_efficacy(
        container,
        scale,
        roll_out_held(container, scale, recipe, target),
        target=target,
        goal=PromptEmbeds.cat(goals),
        preserve=batch_of(embeds, preserve) if preserve else None,
    )


def roll_out_held(
    container: ModelContainer, scale: RowScale, recipe: Recipe, target: PromptEmbeds
) -> HeldOut:
    """Return noisy latents of the base's own rollouts, of a seed that is not trained with.

    Args:
        container: The model.
        scale: Of whatever is attached to it; off here.
        recipe: Names seed and resolution.
        target: One row a prompt.
    """
    ddim = SHIPPED.load("noise", "ddim")
    return roll_out(
        container,
        scale,
        target,
        make_scheduler=lambda: ddim(container.scheduler_config),
        seed=recipe.proof.seeds[0],
        resolution=recipe.train.resolution,
    )


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most this many items, evenly spread, in their order."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]
