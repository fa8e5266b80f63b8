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
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from loba_tui.core.program.closed_form.erasure import pairs_of, solution_of
from loba_tui.core.program.closed_form.linear_edit import Edit, edit_reads, gram, revived
from loba_tui.core.program.closed_form.prompt_states import PromptStates
from loba_tui.core.program.closed_form.retain_set import moved_share
from loba_tui.core.program.closed_form.solution import Solution, Solver, SolverParts, most_ranks
from loba_tui.core.program.closed_form.state_update import StateUpdate

REQUIRES = ("target", "neutral")
SOLVES = True
ERASES = True


@dataclass(frozen=True, kw_only=True)
class UceOptions:
    """Options of the instant lobotomy.

    Attributes:
        tokens: Which hidden states are edited: "concept" those of the words that differ between
            target and guide, "end" the end token too, "prompt" all words and the end token, "all"
            the padding too.
        edit_weight: e, weight of the edits.
        preserve_weight: p, weight of the preserve prompts' tokens.
        preserve_tokens: Which tokens those are: "prompt" their words and the end token, "all" the
            padding too, which most of what is read consists of; null follows `tokens`.
        identity_weight: λ, how hard all that is not named is held in place.
        rece_rounds: How often the states that revive the concept are found and edited too.
        rece_weight: λ of those states: larger keeps them shorter.
        rank: Cut each layer's update to this rank; null keeps all of it.
        adapters: Write so many adapters too, each of which erases its share of the concepts.
    """

    tokens: Literal["concept", "end", "prompt", "all"] = "concept"
    edit_weight: PositiveFloat = 1.0
    preserve_weight: NonNegativeFloat = 1.0
    preserve_tokens: Literal["prompt", "all"] | None = None
    identity_weight: PositiveFloat = 0.5
    rece_rounds: NonNegativeInt = 0
    rece_weight: PositiveFloat = 0.1
    rank: PositiveInt | None = None
    adapters: PositiveInt = 1


def get_method(parts: SolverParts, *, options: UceOptions) -> Solver:
    """Return the instant lobotomy.

    A concept's `target` is edited to mean what its `neutral` prompt, the guide, means; guidance g
    1 takes it all the way. Write the concept's word inside several prompts, with `vary`.
    """
    return InstantLobotomy(parts, options)


class InstantLobotomy:
    """Solves for the update of every layer that reads the prompt."""

    def __init__(self, parts: SolverParts, options: UceOptions) -> None:
        self._parts, self._options = parts, options
        self._states = PromptStates(parts.container, parts.embeds, options.tokens)
        self._pairs = pairs_of(parts)
        self._projections = parts.container.text_projections()

    def most_ranks(self) -> Mapping[str, int]:
        """Return each layer's rank if no two edited states were alike."""
        options = self._options
        num_states = self._states.num_distinct(self._pairs) * (1 + options.rece_rounds)
        return most_ranks(self._projections, num_states, options.rank, options.adapters)

    def solve(self) -> Solution:
        """Return the edit, with what of it is left undone and how far preserved states move."""
        options = self._options
        first = self._states.edit(self._pairs, self._parts.owners)
        preserved = self._preserved()
        edit, reads = first, self._reads(first, preserved)
        if options.rece_rounds:
            before = gram(module.weight.detach() for module in self._projections.values())
            for _ in range(options.rece_rounds):
                update = StateUpdate.of(edit.changes, reads)
                found = revived(first.states, update, before, weight=options.rece_weight)
                edit = edit.also(found, first)
                reads = self._reads(edit, preserved)
        update = StateUpdate.of(edit.changes, reads)
        figures = {"states": float(len(edit.states)), "unsolved": edit.unsolved(update)}
        if len(preserved):
            figures["preserved_moved"] = moved_share(update, preserved)
        return solution_of(
            edit,
            reads,
            self._parts,
            self._states,
            rank=options.rank,
            num_adapters=options.adapters,
            figures=figures,
        )

    def _preserved(self) -> Tensor:
        kept, states = self._options.preserve_tokens, self._states
        concepts = self._parts.concepts
        if kept is None:
            return states.preserved(concepts)
        words = states.preserved(concepts, takes_padding=False)
        if kept == "prompt":
            return words
        return torch.cat([words, states.preserved_padding(concepts)])

    def _reads(self, edit: Edit, preserved: Tensor) -> Tensor:
        options = self._options
        return edit_reads(
            edit,
            preserved if options.preserve_weight else None,
            edit_weight=options.edit_weight,
            preserve_weight=options.preserve_weight,
            identity_weight=options.identity_weight,
        )
