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
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.program.adapter_layers.kinds import block_of, tuner_layers
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.trajectories.held_out import HeldOut

QUIET = 1e-6
"""A part that moves predictions by less than this share of the whole has no direction."""


@dataclass(frozen=True)
class Pair:
    """Two adapters in one block, or in the whole denoiser.

    Attributes:
        one: Label of the first.
        other: Label of the second.
        overlap: Cosine of their changes; None where one of them has none there.
    """

    one: str
    other: str
    overlap: float | None


@dataclass(frozen=True)
class Interference:
    """What was found; `blocks` has the pairs by block, in the order that latents pass through."""

    labels: tuple[str, ...]
    strengths: tuple[float, ...]
    lengths: tuple[float, ...]
    pairs: tuple[Pair, ...]
    blocks: Mapping[str, tuple[Pair, ...]]
    additivity: float
    attributes: tuple[Attribute, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the object that is written."""
        return asdict(self)

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
    """What a measure reads off the images with none, each and all of the adapters.

    Attributes:
        measure: Its name.
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
    *,
    batch_size: int = 16,
) -> Interference:
    """Compare the changes that attached adapters make to the denoiser's predictions.

    Args:
        container: The model, with all of them active.
        names: PEFT's names of the adapters.
        strengths: How strong each is.
        labels: What to call them.
        held_out: From `trajectories.held_out.roll_out`.
        prompts: One row for each prompt of that rollout.
        batch_size: UNet rows at once.
    """
    denoiser = container.denoiser
    blocks = sorted(
        {block_of(layer) for name in names for layer, _ in tuner_layers(denoiser, name)},
        key=_place_of,
    )
    scales = {
        (name, block): AdapterScale(denoiser, name, within=block)
        for name in names
        for block in blocks
        if any(block_of(layer) == block for layer, _ in tuner_layers(denoiser, name))
    }
    embeds = prompts.select(held_out.rows)

    def change(active: set[tuple[str, str]]) -> Tensor:
        """Return (R, C·H·W) changes with these parts of the adapters on, and the others at 0."""
        strength = dict(zip(names, strengths, strict=True))
        with ExitStack() as stack:
            for key, scale in scales.items():
                stack.enter_context(scale(strength[key[0]] if key in active else 0.0))
            rows = []
            for at in range(0, len(embeds), batch_size):
                part = slice(at, at + batch_size)
                rows.append(
                    container.predict(
                        held_out.inputs[part],
                        held_out.timesteps[part],
                        embeds[part],
                    ).double()
                )
        return torch.cat(rows).flatten(1).cpu() - base

    base = torch.zeros((), dtype=torch.float64)
    base = change(set())
    alone = [change({key for key in scales if key[0] == name}) for name in names]
    together = change(set(scales))
    total = sum(alone[1:], alone[0])
    by_block = {}
    for block in blocks:
        parts = [change({(name, block)} & scales.keys()) for name in names]
        by_block[block] = _pairs(labels, parts)
    for scale in reversed(scales.values()):
        scale.remove()
    return Interference(
        labels=tuple(labels),
        strengths=tuple(strengths),
        lengths=tuple(_length(part) for part in alone),
        pairs=_pairs(labels, alone),
        blocks=by_block,
        additivity=_length(together - total) / max(_length(total), QUIET),
    )


def _pairs(labels: Sequence[str], changes: Sequence[Tensor]) -> tuple[Pair, ...]:
    pairs = []
    for i, j in itertools.combinations(range(len(labels)), 2):
        one, other = changes[i], changes[j]
        moved = min(_length(one), _length(other)) > QUIET
        overlap = float((one * other).sum() / (one.norm() * other.norm())) if moved else None
        pairs.append(Pair(labels[i], labels[j], overlap))
    return tuple(pairs)


def _length(rows: Tensor) -> float:
    return float(rows.square().sum(1).mean().sqrt())


def _place_of(block: str) -> tuple[int, str]:
    order = ("conv_in", "time_embedding", "add_embedding", "down", "mid", "up")
    place = next((at for at, name in enumerate(order) if block.startswith(name)), len(order))
    return place, block


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
