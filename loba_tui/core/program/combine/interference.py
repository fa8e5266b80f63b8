"""How adapters that are used together disturb each other, with and without images.

With De_i = e(adapter i alone) - e(base) on held-out latents and De_all that of all of them,

    overlap = cos(De_i, De_j)            additivity = |De_all - sum De_i| / |sum De_i|

An overlap of 0 means that two adapters move predictions in unrelated directions, 1 in the same, -1
in opposite ones; an additivity of 0 that together they do what each does alone. Both are also given
for the adapters' parts in each block of the denoiser. What the images show (each recipe's own
measure and labels, with none, each and all of the adapters) is read off pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.program.adapter_layers.kinds import adapted_layers, block_of, block_place
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.evaluation.efficacy.probe import length
from loba_tui.core.program.trajectories.held_out import HeldOut

QUIET = 1e-6
"""A part that moves predictions by less than this share of the whole has no direction."""


@dataclass(frozen=True)
class Pair:
    """Two adapters in one block, or in the whole denoiser.

    `overlap` is the cosine of their changes, None where one of them has none there.
    """

    one: str
    other: str
    overlap: float | None


@dataclass(frozen=True)
class Interference:
    """Overlap of adapters; `blocks` has the pairs by block, in the order of the denoiser."""

    labels: tuple[str, ...]
    strengths: tuple[float, ...]
    lengths: tuple[float, ...]
    pairs: tuple[Pair, ...]
    blocks: Mapping[str, tuple[Pair, ...]]
    additivity: float
    attributes: tuple[Attribute, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """Say it in plain sentences."""
        told = []
        for pair in self.pairs:
            how = "no change of one of them" if pair.overlap is None else f"{pair.overlap:+.2f}"
            told.append(f"{pair.one} and {pair.other}: overlap {how} ({_words(pair.overlap)}).")
        told.append(
            f"Together they do what they do alone but for {self.additivity:.0%} of the change."
        )
        return told + [attribute.sentence() for attribute in self.attributes]


@dataclass(frozen=True)
class Attribute:
    """Readings of a measure on the images with none, each and all of the adapters.

    Attributes:
        of: Label of the adapter whose recipe names it.
        base: Mean without any adapter.
        alone: Mean with each adapter alone, in the order of the labels.
        together: Mean with all of them.
        kept: Share of its own adapter's change that is left with all of them; None where there
            was no change.
    """

    measure: str
    of: str
    base: float
    alone: tuple[float, ...]
    together: float
    kept: float | None

    def sentence(self) -> str:
        """Say it in one sentence."""
        alone = ", ".join(f"{value:.4g}" for value in self.alone)
        kept = "" if self.kept is None else f"; {self.kept:.0%} of {self.of}'s own change is left"
        return (
            f"{self.measure}: {self.base:.4g} without any, {alone} with each alone, "
            f"{self.together:.4g} with all{kept}."
        )


def _words(overlap: float | None) -> str:
    if overlap is None or abs(overlap) < 0.1:
        return "next to unrelated"
    if abs(overlap) < 0.4:
        return "partly the same" if overlap > 0 else "partly opposite"
    return "much the same direction" if overlap > 0 else "against each other"


@torch.no_grad()
def measure_overlap(
    container: ModelContainer,
    names: Sequence[str],
    strengths: Sequence[float],
    labels: Sequence[str],
    held_out: HeldOut,
    prompts: PromptEmbeds,
) -> Interference:
    """Compare the changes that attached adapters, all active, make to the denoiser's predictions.

    `names` are PEFT's; `prompts` has one row for each prompt that was rolled out.
    """
    scales = _scales_by_part(container.denoiser, names)
    strength_of = dict(zip(names, strengths, strict=True))
    embeds = prompts.select(held_out.rows)

    def change(active: set[tuple[str, str]]) -> Tensor:
        """Return (R, C·H·W) changes with these parts of the adapters on, and the others at 0."""
        with ExitStack() as stack:
            for part, scale in scales.items():
                stack.enter_context(scale(strength_of[part[0]] if part in active else 0.0))
            return held_out.predict(container, embeds) - base

    base = torch.zeros((), dtype=torch.float64)
    base = change(set())
    alone = [change({key for key in scales if key[0] == name}) for name in names]
    together = change(set(scales))
    total = sum(alone[1:], alone[0])
    by_block = {}
    for block in sorted({block for _, block in scales}, key=block_place):
        parts = [change({(name, block)} & scales.keys()) for name in names]
        by_block[block] = _pairs(labels, parts)
    for scale in reversed(scales.values()):
        scale.remove()
    return Interference(
        labels=tuple(labels),
        strengths=tuple(strengths),
        lengths=tuple(length(part) for part in alone),
        pairs=_pairs(labels, alone),
        blocks=by_block,
        additivity=length(together - total) / max(length(total), QUIET),
    )


def _scales_by_part(
    denoiser: nn.Module, names: Sequence[str]
) -> dict[tuple[str, str], AdapterScale]:
    parts = [
        (name, block_of(layer)) for name in names for layer, _ in adapted_layers(denoiser, name)
    ]
    return {
        (name, block): AdapterScale(denoiser, name, within=block)
        for name, block in sorted(set(parts), key=lambda part: (part[0], block_place(part[1])))
    }


def _pairs(labels: Sequence[str], changes: Sequence[Tensor]) -> tuple[Pair, ...]:
    pairs = []
    for i, j in itertools.combinations(range(len(labels)), 2):
        one, other = changes[i], changes[j]
        moved = min(length(one), length(other)) > QUIET
        overlap = float((one * other).sum() / (one.norm() * other.norm())) if moved else None
        pairs.append(Pair(labels[i], labels[j], overlap))
    return tuple(pairs)


def measured_attribute(
    measure: str, of: int, labels: Sequence[str], means: Sequence[float]
) -> Attribute:
    """Return what a measure's means come to: base, each adapter alone, all together."""
    base, *alone, together = means
    own = alone[of] - base
    return Attribute(
        measure=measure,
        of=labels[of],
        base=base,
        alone=tuple(alone),
        together=together,
        kept=(together - base) / own if abs(own) > 1e-3 * max(abs(base), 1e-9) else None,
    )
