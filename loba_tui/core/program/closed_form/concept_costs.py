"""How far each concept of an edit is changed, and what its change does to other prompts.

An edit is a sum over its concepts, W' − W = W Σ d_i k_iᵀ, so that what a concept's own rows do to
the states of a prompt can be told apart from what the others do. All of it is said of the hidden
states that the layers read, by share of their length, and takes no image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loba_tui.core.program.closed_form.linear_edit import Edit
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
        said = [
            f"Of {number} at most {max(c.undone for c in self.concepts):.1%} of a change is undone."
            if not left
            else f"Of {number} {len(left)} are not wholly changed: {_worst(left)} undone."
        ]
        for name, is_preserved in (("preserved", True), ("watched", False)):
            own = [p for p in self.prompts if p.is_preserved == is_preserved]
            if not own:
                continue
            mean, most = sum(p.moved for p in own) / len(own), max(own, key=lambda p: p.moved)
            sentence = (
                f"{counted(len(own), f'{name} prompt')} move by {mean:.1%} in the mean, at most "
                f"{most.label} by {most.moved:.1%}"
            )
            said.append(
                sentence + (f", through {most.most_by}." if most.moved > MOVED_SHARE else ".")
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


def measure_costs(
    edit: Edit,
    reads: Tensor,
    *,
    concepts: Sequence[tuple[str, str]],
    preserved: Mapping[str, Tensor],
    watched: Mapping[str, Tensor],
    undone: Sequence[float] | None = None,
) -> ConceptCosts:
    """Return what an edit does, concept by concept.

    Args:
        edit: Its rows, with the concept that each is a part of.
        reads: (N, D) rows k of W' − W = W Σ d_i k_iᵀ, from `linear_edit.edit_reads`.
        concepts: Name and guide of each.
        preserved: States (T, D) of the prompts that are to stay, by name.
        watched: The same of prompts that the edit was not told of.
        undone: Share of each concept's change that is left undone; None: what the edit leaves.
    """
    changes, owners = edit.changes.double().cpu(), torch.tensor(edit.owners)
    if undone is None:
        left = changes - (edit.states.double().cpu() @ reads.T) @ changes
        undone = shares_by(owners, left, changes, len(concepts))
    prompts = [*preserved.items(), *watched.items()]
    moves, together = _moved(
        changes, reads, owners, [states for _, states in prompts], len(concepts)
    )
    return ConceptCosts(
        tuple(
            ConceptCost(label, guide, float(undone[index]), tuple(moves[index].tolist()))
            for index, (label, guide) in enumerate(concepts)
        ),
        tuple(
            PromptCost(
                label,
                number < len(preserved),
                float(together[number]),
                concepts[int(moves[:, number].argmax())][0],
            )
            for number, (label, _) in enumerate(prompts)
        ),
    )


def shares_by(owners: Tensor, parts: Tensor, wholes: Tensor, num: int) -> list[float]:
    """Return |parts| / |wholes| over the rows (N, D) of each owner, 0 where there is nothing."""
    squares = torch.zeros(2, num, dtype=torch.float64)
    for row, values in enumerate((parts, wholes)):
        squares[row].index_add_(0, owners, values.double().square().sum(dim=1).cpu())
    return (squares[0] / squares[1].clamp(min=torch.finfo(torch.float64).tiny)).sqrt().tolist()


def _moved(
    changes: Tensor, reads: Tensor, owners: Tensor, prompts: Sequence[Tensor], num: int
) -> tuple[Tensor, Tensor]:
    """Return by what share each concept alone (num, P), and all together (P,), move prompts."""
    if not prompts:
        return torch.zeros(num, 0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    states = torch.cat([each.double().cpu() for each in prompts])
    of_prompt = torch.repeat_interleave(
        torch.arange(len(prompts)), torch.tensor([len(each) for each in prompts])
    )
    lengths = _sums(states.square().sum(dim=1), of_prompt, len(prompts)).sqrt()
    heard, products = states @ reads.T, changes @ changes.T
    alone = torch.zeros(num, len(prompts), dtype=torch.float64)
    for concept in range(num):
        own = (owners == concept).nonzero()[:, 0]
        squares = _squares(heard[:, own], products[own][:, own])
        alone[concept] = _sums(squares, of_prompt, len(prompts)).sqrt()
    together = _sums(_squares(heard, products), of_prompt, len(prompts)).sqrt()
    return alone / lengths, together / lengths


def _squares(heard: Tensor, products: Tensor) -> Tensor:
    """Return |Σ h_i d_i|² of each row (M, N) of h, from the products d_i · d_j (N, N)."""
    return ((heard @ products) * heard).sum(dim=1).clamp(min=0)


def _sums(values: Tensor, groups: Tensor, num: int) -> Tensor:
    return torch.zeros(num, dtype=values.dtype).index_add_(0, groups, values)


def _worst(found: Sequence[tuple[float, str]]) -> str:
    worst = sorted(found, reverse=True)
    named = ", ".join(f"{label} {share:.0%}" for share, label in worst[:_MOST_NAMED])
    return named + (", …" if len(worst) > _MOST_NAMED else "")
