"""Erasing with guarantees: concepts change, and retained states are answered as before, exactly.

SPEED, Li et al. 2025, https://arxiv.org/abs/2503.07392. Every layer that reads the prompt is edited
so that a concept's tokens c mean what the guide's mean, by an update that reads only what lies
outside of all retained states z. P projects onto that, the null space of the retain set:

    W' − W = W · e Σ d_i (M₂⁻¹ P c_i)ᵀ,   d = g (h(guide) − c),   so that (W' − W) z = 0
    M₂ = λI + P (e Σ c cᵀ + p Σ r rᵀ) P

All layers share the update but for their W, so that it is a low-rank adapter, with at most as many
ranks as different states are edited. Of the preserve prompts' words those are retained that an edit
without them would move the most; the others, and the padding, are the r, which stay as near as
they can. A large e leaves nothing of a concept undone: alignment without a residual (ErasePro, Chen
et al. 2025, https://arxiv.org/abs/2508.04472). `tokens: end` also edits the end token, which has
read the concept through whatever words (TRCE, Chen et al. 2025, https://arxiv.org/abs/2503.07389).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.closed_form.erasure import pairs_of, solution_of
from loba_tui.core.program.closed_form.linear_edit import Edit, condensed, edit_reads, gram
from loba_tui.core.program.closed_form.prompt_states import PromptStates
from loba_tui.core.program.closed_form.retain_set import (
    RetainSet,
    most_moved,
    moved_share,
    room,
)
from loba_tui.core.program.closed_form.solution import Solution, Solver, SolverParts, most_ranks
from loba_tui.core.program.closed_form.state_update import StateUpdate

REQUIRES = ("target", "neutral")
SOLVES = True
ERASES = True

_LEAST_ROOM = 1e-4
"""A state with a smaller share of its length outside of the retained ones is one of them."""


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """Options of the erasure in a null space.

    Attributes:
        tokens: Which hidden states are edited: "concept" those of the words that differ between
            target and guide, "end" the end token too, "prompt" all words and the end token, "all"
            the padding too.
        influence: Retained exactly are the preserve prompts' words that an edit without them would
            move by at least so much as this times their mean; 0 retains all of them, which takes
            more room than small text encoders have.
        keep_empty: Retain the empty prompt's states exactly, start, end and padding; null does so
            where the model reads them for its negative prompt. The start token always is.
        edit_weight: e, weight of the edits; large ones leave nothing undone.
        preserve_weight: p, weight of the preserve prompts' other states.
        augment: Length of noise on the retained states, as a share of theirs, in the directions
            that the layers hear least: what lies near them stays as near as it can, too.
        identity_weight: λ, how hard all that is not named is held in place.
        rank: Cut each layer's update to this rank; null keeps all of it.
        adapters: Write so many adapters too, each of which erases its share of the concepts.
    """

    tokens: Literal["concept", "end", "prompt", "all"] = "concept"
    influence: NonNegativeFloat = 1.0
    keep_empty: bool | None = None
    edit_weight: PositiveFloat = 100.0
    preserve_weight: NonNegativeFloat = 1.0
    augment: NonNegativeFloat = 0.0
    identity_weight: PositiveFloat = 0.5
    rank: PositiveInt | None = None
    adapters: PositiveInt = 1


def get_method(parts: SolverParts, *, options: SpeedOptions) -> Solver:
    """Return the erasure in a null space.

    A concept's `target` is edited to mean what its `neutral` prompt, the guide, means; guidance g
    1 takes it all the way. Its `preserve` prompts are retained; write words inside several
    prompts, with `vary`.
    """
    return NullSpaceErasure(parts, options)


class NullSpaceErasure:
    """Solves for an update of every layer that reads the prompt and that retained states have not.

    What one concept preserves is retained by the edits of all.
    """

    def __init__(self, parts: SolverParts, options: SpeedOptions) -> None:
        self._parts, self._options = parts, options
        self._states = PromptStates(parts.container, parts.embeds, options.tokens)
        self._pairs = pairs_of(parts)
        self._projections = parts.container.text_projections()

    def most_ranks(self) -> Mapping[str, int]:
        """Return each layer's rank if no two edited states were alike."""
        options, num_states = self._options, self._states.num_distinct(self._pairs)
        return most_ranks(self._projections, num_states, options.rank, options.adapters)

    def solve(self) -> Solution:
        """Return the edit, with what of it is left undone and how far retained states move."""
        options = self._options
        edit = self._states.edit(self._pairs, self._parts.owners)
        retained = self._retained(edit)
        least_room = room(edit.states, retained.span)
        if least_room < _LEAST_ROOM:
            raise RecipeError(
                "method.concepts: an edited state is a sum of those that are to stay as they are",
                "Preserve fewer words, raise method.influence or take keep_empty: false; what is"
                " erased cannot be preserved too.",
            )
        reads = edit_reads(
            edit,
            retained.near,
            kept=retained.span,
            edit_weight=options.edit_weight,
            identity_weight=options.identity_weight,
        )
        update = StateUpdate.of(edit.changes, reads)
        figures = {
            "states": float(len(edit.states)),
            "unsolved": edit.unsolved(update),
            "retained": float(len(retained.exact)),
            "retained_moved": moved_share(update, retained.exact),
            "room": least_room,
        }
        return solution_of(
            edit,
            reads,
            self._parts,
            self._states,
            rank=options.rank,
            num_adapters=options.adapters,
            figures=figures,
        )

    def _retained(self, edit: Edit) -> RetainSet:
        options, concepts, states = self._options, self._parts.concepts, self._states
        # The start token is the first of the states that are preserved, if there are any.
        start = states.of(self._pairs[0].prompt)[:1]
        words = states.preserved(concepts, takes_padding=False)[1:]
        padding = states.preserved_padding(concepts)
        is_exact = most_moved(
            words,
            edit,
            influence=options.influence,
            edit_weight=options.edit_weight,
            identity_weight=options.identity_weight,
        )
        exact = [start, words[is_exact]]
        near = condensed([words[~is_exact], padding]) * options.preserve_weight**0.5
        empty = self._parts.container.unconditional_prompt
        if options.keep_empty or (options.keep_empty is None and empty is not None):
            exact.append(states.of("" if empty is None else empty))
        found = RetainSet(torch.cat(exact), near)
        if not options.augment:
            return found
        layers = gram(module.weight.detach() for module in self._projections.values())
        return found.with_neighbours(layers, options.augment)
