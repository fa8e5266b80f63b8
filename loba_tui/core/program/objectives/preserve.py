"""Prompts whose prediction is held where the base model has it, in some rows of a micro-step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pydantic import NonNegativeFloat

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.option_types import UnitFloat
from loba_tui.core.program import randomness
from loba_tui.core.program.method import MethodParts
from loba_tui.core.program.trajectories.base import Draw


class Held(Protocol):
    """A term p · MSE(ε_m(x_t, r), sg ε₀(x_t, r)) of the loss.

    Attributes:
        name: Of its role and its figure.
        weight: p; 0 leaves the term out.
        share: Share of a batch's rows that have the term.
    """

    name: str
    weight: float
    share: float

    def pick(self, draw: Draw, index: int) -> tuple[list[int], list[PromptEmbeds]]:
        """Return local rows of micro-step `index`, and the embeddings of an r for each."""
        ...


@dataclass(frozen=True, kw_only=True)
class PreserveOptions:
    """Options of methods that hold the recipe's preserve prompts.

    Attributes:
        preserve_weight: Weight of the preserve term.
        preserve_share: Share of a batch's rows that also train a preserve prompt.
    """

    preserve_weight: NonNegativeFloat = 1.0
    preserve_share: UnitFloat = 0.5


class PreservedPrompts:
    """Holds one of the preserve prompts of each picked row's concept; see `Held`."""

    name = "preserve"

    def __init__(self, parts: MethodParts, options: PreserveOptions) -> None:
        self._parts = parts
        self.share = options.preserve_share
        self.has_any = self.share > 0 and any(concept.preserve for concept in parts.concepts)
        self.change_weight(options.preserve_weight)

    def change_weight(self, weight: float) -> None:
        """Take another weight; without preserve prompts there is nothing to weigh."""
        self.weight = weight if self.has_any else 0.0

    def pick(self, draw: Draw, index: int) -> tuple[list[int], list[PromptEmbeds]]:
        """Return local rows, and the embeddings of a preserve prompt for each."""
        rows, embeds = [], []
        for local, key in spread_rows(draw, index, self.share):
            prompts = self._parts.concepts[draw.concepts[local]].preserve
            if prompts:
                pick = randomness.integer(len(prompts), self._parts.seed, "preserve", *key)
                rows.append(local)
                embeds.append(self._parts.embeds[prompts[pick]])
        return rows, embeds


def spread_rows(draw: Draw, index: int, share: float) -> list[tuple[int, tuple[int, int]]]:
    """Pick a share of the rows, spread evenly over the global batch and from step to step.

    Returns:
        Local rows, each with a key for what is drawn at random for it. A sample of a bank comes
        with the same key each time that it comes again.
    """
    picked = []
    for local, row in enumerate(draw.rows):
        place, key = row + index, (index, row)
        if draw.samples:
            place, key = draw.samples[local], (-1, draw.samples[local])
        if int((place + 1) * share) > int(place * share):
            picked.append((local, key))
    return picked
