"""Which rows of a micro-step also hold a preserve prompt in place, and which prompt."""

from __future__ import annotations

from collections.abc import Sequence

from loba_tui.core.program import randomness
from loba_tui.core.program.trajectories.base import Draw
from loba_tui.core.recipe.schema import Concept


class SpreadRows:
    """Picks a share of the rows, spread evenly over the global batch and from step to step."""

    def __init__(self, share: float) -> None:
        self.share = share

    def pick(self, draw: Draw, index: int) -> list[tuple[int, tuple[int, int]]]:
        """Return local rows, each with a key for what is drawn at random for it.

        A sample of a bank comes with the same key each time that it comes again.
        """
        picked = []
        for local, row in enumerate(draw.rows):
            place, key = row + index, (index, row)
            if draw.samples:
                place, key = draw.samples[local], (-1, draw.samples[local])
            if int((place + 1) * self.share) > int(place * self.share):
                picked.append((local, key))
        return picked


class PreserveRows:
    """Picks rows and one of the preserve prompts of each row's concept."""

    def __init__(self, concepts: Sequence[Concept], share: float, seed: int) -> None:
        self._concepts = concepts
        self._rows = SpreadRows(share)
        self._seed = seed
        self.share = share
        self.has_any = share > 0 and any(concept.preserve for concept in concepts)

    def pick(self, draw: Draw, index: int) -> tuple[list[int], list[str]]:
        """Return local rows, and a prompt for each."""
        rows, prompts = [], []
        for local, key in self._rows.pick(draw, index):
            choices = self._concepts[draw.concepts[local]].preserve
            if choices:
                pick = randomness.integer(len(choices), self._seed, "preserve", *key)
                rows.append(local)
                prompts.append(choices[pick])
        return rows, prompts
