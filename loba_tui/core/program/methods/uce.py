"""Instant lobotomy: concepts erased or swapped in closed form, as an exact low-rank adapter.

Unified Concept Editing, Gandikota et al. 2023, https://arxiv.org/abs/2308.14761. Every layer that
reads the prompt is edited so that a concept's tokens mean what the guide's mean, with preserve
prompts held in place:

    W' − W = W · e Σ d_i (M₂⁻¹ c_i)ᵀ,  d = g (h(guide) − c),  M₂ = λI + e Σ c cᵀ + p Σ r rᵀ

Optionally hardened by rounds of RECE (Gong et al. 2024, https://arxiv.org/abs/2407.12383): the
states that would bring the concept back are found in closed form, and edited too. Where RECE edits
the edited weights again, ours solves for all states found so far at once, from the first weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from loba_tui.core.program.closed_form.linear_edit import Edit, StateUpdate, gram, revived, solve
from loba_tui.core.program.closed_form.prompt_states import Pair, PromptStates, text_projections
from loba_tui.core.program.closed_form.solution import (
    Solution,
    Solver,
    SolverParts,
    layer_updates,
    most_ranks,
)

REQUIRES = ("target", "neutral")
SOLVES = True
ERASES = True


def get_method(
    parts: SolverParts,
    *,
    tokens: Literal["concept", "prompt", "all"] = "concept",
    edit_weight: PositiveFloat = 1.0,
    preserve_weight: NonNegativeFloat = 1.0,
    identity_weight: PositiveFloat = 0.5,
    rece_rounds: NonNegativeInt = 0,
    rece_weight: PositiveFloat = 0.1,
    rank: PositiveInt | None = None,
) -> Solver:
    """Return the instant lobotomy.

    A concept's `target` is edited to mean what its `neutral` prompt, the guide, means; guidance g
    1 takes it all the way. Write the concept's word inside several prompts, with `vary`.

    Args:
        parts: What the method works with.
        tokens: Which hidden states are edited: "concept" those of the words that differ between
            target and guide, "prompt" all words and the end token, "all" the padding too.
        edit_weight: e, weight of the edits.
        preserve_weight: p, weight of the preserve prompts' tokens.
        identity_weight: λ, how hard all that is not named is held in place.
        rece_rounds: How often the states that revive the concept are found and edited too.
        rece_weight: λ of those states: larger keeps them shorter.
        rank: Cut each layer's update to this rank; null keeps all of it.
    """
    return InstantLobotomy(
        parts,
        tokens=tokens,
        edit_weight=edit_weight,
        preserve_weight=preserve_weight,
        identity_weight=identity_weight,
        rece_rounds=rece_rounds,
        rece_weight=rece_weight,
        rank=rank,
    )


class InstantLobotomy:
    """Solves for the update of every layer that reads the prompt."""

    def __init__(
        self,
        parts: SolverParts,
        *,
        tokens: Literal["concept", "prompt", "all"],
        edit_weight: float,
        preserve_weight: float,
        identity_weight: float,
        rece_rounds: int,
        rece_weight: float,
        rank: int | None,
    ) -> None:
        self._parts = parts
        self._edit_weight = edit_weight
        self._preserve_weight = preserve_weight
        self._identity_weight = identity_weight
        self._rece_rounds = rece_rounds
        self._rece_weight = rece_weight
        self._rank = rank
        self._states = PromptStates(parts.container, parts.embeds, tokens)
        self._pairs = [
            Pair(concept.target, towards=str(concept.neutral), strength=concept.guidance)
            for concept in parts.concepts
        ]
        self._projections = text_projections(parts.container)

    def most_ranks(self) -> Mapping[str, int]:
        """Return each layer's rank if no two edited states were alike."""
        num_states = self._states.num_distinct(self._pairs) * (1 + self._rece_rounds)
        return most_ranks(self._projections, num_states, self._rank)

    def solve(self) -> Solution:
        """Return the edit, with what of it is left undone and how far preserved states move."""
        first = self._states.edit(self._pairs)
        kept = dict.fromkeys(prompt for c in self._parts.concepts for prompt in c.preserve)
        preserved = self._states.preserved(list(kept))
        edit, update = first, self._solved(first, preserved)
        if self._rece_rounds:
            before = gram(module.weight.detach() for module in self._projections.values())
            for _ in range(self._rece_rounds):
                edit = self._with_revived(edit, first, update, before)
                update = self._solved(edit, preserved)
        layers = layer_updates(update, self._projections, self._rank)
        figures = {"states": float(len(edit.states)), "unsolved": edit.unsolved(update)}
        if len(preserved):
            figures["preserved_moved"] = float(
                torch.linalg.norm(update.apply(preserved)) / torch.linalg.norm(preserved)
            )
        return Solution(layers, figures)

    def _solved(self, edit: Edit, preserved: Tensor) -> StateUpdate:
        return solve(
            edit,
            preserved if self._preserve_weight else None,
            edit_weight=self._edit_weight,
            preserve_weight=self._preserve_weight,
            identity_weight=self._identity_weight,
        )

    def _with_revived(self, edit: Edit, first: Edit, update: StateUpdate, layers: Tensor) -> Edit:
        """Return the edit with one more state for each of the first ones: what revives it now."""
        found = revived(first.states, update, layers, weight=self._rece_weight)
        goals = first.states + first.changes
        return Edit(torch.cat([edit.states, found]), torch.cat([edit.changes, goals - found]))
