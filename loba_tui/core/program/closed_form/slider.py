"""The instant slider's edit, and a training run that begins with it.

A neutral prompt's states c are edited by g d, d = h(positive) − h(negative) at the matching tokens:
cross-attention then answers c as it would have answered c + g d. The update of `linear_edit.solve`
is linear in g, so the adapter's scale is the slider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.closed_form.linear_edit import solve
from loba_tui.core.program.closed_form.prompt_states import Pair, PromptStates
from loba_tui.core.program.closed_form.solution import layer_updates
from loba_tui.core.program.closed_form.solved_run import put_weights
from loba_tui.core.recipe.sections.method import Concept

_IDENTITY_WEIGHT = 0.05
"""λ of a warm start, which is that of the method instant_slider."""


def slider_pairs(concepts: Sequence[Concept]) -> list[Pair]:
    """Return what is edited: each neutral prompt, from its negative towards its positive."""
    return [
        Pair(
            concept.target if concept.neutral is None else concept.neutral,
            towards=str(concept.positive),
            away=str(concept.negative),
            strength=concept.guidance,
        )
        for concept in concepts
    ]


def start_from_instant(
    container: ModelContainer,
    embeds: Mapping[str, PromptEmbeds],
    concepts: Sequence[Concept],
) -> None:
    """Give an attached LoRA the instant slider for its first weights, cut to the LoRA's own rank.

    Only layers that read the prompt have one; the adapter's others begin as they were.

    Raises:
        RecipeError: The adapter has none of those layers, or is no LoRA.
    """
    denoiser = container.denoiser
    projections = {
        name: module
        for name, module in container.text_projections().items()
        if denoiser.get_submodule(name) is not module
    }
    ranks = {name: getattr(denoiser.get_submodule(name), "r", {}) for name in projections}
    if not projections:
        raise RecipeError(
            "method.warm_start: the adapter has no layer that reads the prompt",
            "Put cross_attention into adapter.layers.",
        )
    edit = PromptStates(container, embeds, "prompt").edit(slider_pairs(concepts))
    update = solve(edit, identity_weight=_IDENTITY_WEIGHT)
    for name, module in projections.items():
        rank = ranks[name].get("default", 0)
        put_weights(denoiser, layer_updates(update, {name: module}, rank))
