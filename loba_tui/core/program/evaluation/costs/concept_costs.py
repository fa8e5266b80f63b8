"""How far each concept of an edit is changed, and what its change does to other prompts.

All of it is told of the hidden states that the layers read, padding included, by share of their
length, and takes no image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loba_tui.core.text import counted

UNDONE_SHARE = 0.05
"""A concept of whose change more than this is left undone is named."""

MOVED_SHARE = 0.02
"""A prompt that is moved by more than this is named."""

_MOST_NAMED = 4


@dataclass(frozen=True)
class PromptCost:
    """The prompts of one name, and how far an edit moves them.

    Attributes:
        is_preserved: Whether the edit was told to leave them alone.
        moved: By what share of their length all concepts together move their states.
        most_by: The concept that alone moves them the most.
    """

    label: str
    is_preserved: bool
    moved: float
    most_by: str


@dataclass(frozen=True)
class ConceptCost:
    """One concept of an edit.

    Attributes:
        guide: What it becomes.
        undone: Share of its change, in length, that is left undone.
        moves: By what share of their length it alone moves each prompt, in the prompts' order.
    """

    label: str
    guide: str
    undone: float
    moves: tuple[float, ...]


@dataclass(frozen=True)
class ConceptCosts:
    """The costs of an edit, concept by concept and prompt by prompt."""

    concepts: tuple[ConceptCost, ...]
    prompts: tuple[PromptCost, ...]

    def dearest(self, concept: ConceptCost) -> tuple[float, str]:
        """Return the most by which a concept moves a prompt, and that prompt; 0 without any."""
        if not concept.moves:
            return 0.0, ""
        most = max(range(len(concept.moves)), key=concept.moves.__getitem__)
        return concept.moves[most], self.prompts[most].label

    def figures(self) -> dict[str, float]:
        """Return the extremes, for the metrics file."""
        found = {"most_undone": max(each.undone for each in self.concepts)}
        for name, is_preserved in (("preserved", True), ("watched", False)):
            moved = [p.moved for p in self.prompts if p.is_preserved == is_preserved]
            if moved:
                found[f"most_{name}_moved"] = max(moved)
        return found

    def sentences(self) -> tuple[str, ...]:
        """Return in plain words what is left undone, and what is paid for it."""
        number = counted(len(self.concepts), "concept")
        left = [(c.undone, c.label) for c in self.concepts if c.undone > UNDONE_SHARE]
        most = max(c.undone for c in self.concepts)
        said = [f"Of the change of {number} at most {most:.1%} is undone."]
        if left:
            said = [
                f"Of {number} {len(left)} keep more than {UNDONE_SHARE:.0%} of what they were: "
                f"{_worst(left)}."
            ]
        for name, is_preserved in (("preserved", True), ("watched", False)):
            own = [p for p in self.prompts if p.is_preserved == is_preserved]
            if not own:
                continue
            mean, worst = sum(p.moved for p in own) / len(own), max(own, key=lambda p: p.moved)
            sentence = (
                f"{counted(len(own), f'{name} prompt')} move by {mean:.1%} in the mean, at most "
                f"{worst.label} by {worst.moved:.1%}"
            )
            said.append(
                sentence + (f", through {worst.most_by}." if worst.moved > MOVED_SHARE else ".")
            )
        return tuple(said)

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each concept, dearest first, then one for each prompt, by column."""
        concepts = sorted(self.concepts, key=lambda c: -self.dearest(c)[0])
        prompts = sorted(self.prompts, key=lambda p: (not p.is_preserved, -p.moved))
        return [*map(self._row, concepts), *map(_prompt_row, prompts)]

    def _row(self, concept: ConceptCost) -> dict[str, Any]:
        most, prompt = self.dearest(concept)
        return {
            "kind": "erased",
            "name": concept.label,
            "becomes": concept.guide,
            "undone": concept.undone,
            "moves_in_the_mean": sum(concept.moves) / max(1, len(concept.moves)),
            "moves_most": most,
            "most": prompt,
        }


def _prompt_row(prompt: PromptCost) -> dict[str, Any]:
    return {
        "kind": "preserved" if prompt.is_preserved else "watched",
        "name": prompt.label,
        "is_moved": prompt.moved,
        "most": prompt.most_by,
    }


def _worst(found: Sequence[tuple[float, str]]) -> str:
    worst = sorted(found, reverse=True)
    named = ", ".join(f"{label} {share:.0%}" for share, label in worst[:_MOST_NAMED])
    return named + (", …" if len(worst) > _MOST_NAMED else "")
