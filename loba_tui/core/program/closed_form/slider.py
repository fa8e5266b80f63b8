"""The instant slider's algebra: a slider's direction, read off the text encoder's states.

The closed form of Unified Concept Editing (Gandikota et al. 2023,
https://arxiv.org/abs/2308.14761) with the difference of two prompts as the change: cross-attention
answers a neutral prompt's states c as it would answer c + η d, d = h(positive) − h(negative) at the
matching tokens. The update is linear in its strength, so its scale is the slider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.closed_form.linear_edit import Edit, StateUpdate, solve
from loba_tui.core.program.closed_form.prompt_states import (
    Pair,
    Positions,
    PromptStates,
    text_projections,
)
from loba_tui.core.program.closed_form.solution import layer_updates
from loba_tui.core.program.closed_form.solved_run import put_weights
from loba_tui.core.recipe.schema import Concept


def slider_pairs(concepts: Sequence[Concept]) -> list[Pair]:
    """Return what is edited: each neutral prompt, from its negative towards its positive."""
    return [
        Pair(
            concept.neutral or concept.target,
            towards=str(concept.positive),
            away=str(concept.negative),
            strength=concept.guidance,
        )
        for concept in concepts
    ]


def slider_update(
    container: ModelContainer,
    embeds: Mapping[str, PromptEmbeds],
    concepts: Sequence[Concept],
    *,
    positions: Positions,
    identity_weight: float,
    preserve_weight: float,
) -> tuple[Edit, StateUpdate]:
    """Return the edited states with their changes, and the update that comes of them.

    Args:
        container: The model.
        embeds: Of all prompts of the concepts, one row each.
        concepts: With positive and negative prompts.
        positions: Which tokens are edited.
        identity_weight: λ, how hard all other states are held.
        preserve_weight: p, how hard those of the preserve prompts are; 0 leaves them out.
    """
    states = PromptStates(container, embeds, positions)
    edit = states.edit(slider_pairs(concepts))
    kept = list(dict.fromkeys(prompt for concept in concepts for prompt in concept.preserve))
    update = solve(
        edit,
        states.preserved(kept) if preserve_weight and kept else None,
        identity_weight=identity_weight,
        preserve_weight=preserve_weight,
    )
    return edit, update


def start_from_instant(
    container: ModelContainer,
    embeds: Mapping[str, PromptEmbeds],
    concepts: Sequence[Concept],
    *,
    identity_weight: float = 0.05,
) -> None:
    """Give an attached LoRA the instant slider for its first weights, cut to the LoRA's own rank.

    Only layers that read the prompt have one; the adapter's others begin as they were.

    Raises:
        RecipeError: The adapter has none of those layers, or is no LoRA.
    """
    denoiser = container.denoiser
    projections = {
        name: module
        for name, module in text_projections(container).items()
        if denoiser.get_submodule(name) is not module
    }
    ranks = {name: getattr(denoiser.get_submodule(name), "r", {}) for name in projections}
    if not projections:
        raise RecipeError(
            "method.warm_start: the adapter has no layer that reads the prompt",
            "Put cross_attention into adapter.layers.",
        )
    _, update = slider_update(
        container,
        embeds,
        concepts,
        positions="prompt",
        identity_weight=identity_weight,
        preserve_weight=0.0,
    )
    for name, module in projections.items():
        rank = ranks[name].get("default", 0)
        put_weights(denoiser, layer_updates(update, {name: module}, rank))
