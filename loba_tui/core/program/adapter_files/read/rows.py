"""Changes of some rows of a matrix: of one of the modules that share it in a file.

A file by a first implementation's names has query, key and value of an attention as one matrix
whose update is B A. Of that, a module has its own rows of B, and of A what these rows take.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from loba_tui.core.program.adapter_files.read.changes import Dora, LowRank, WeightChange

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Rows(WeightChange):
    """Some rows of the change of a whole matrix."""

    kind: ClassVar[str] = "rows of a shared matrix"
    whole: WeightChange
    spans: Spans

    def _size(self) -> tuple[int, ...] | None:
        size = self.whole.size()
        return None if size is None else (sum(end - at for at, end in self.spans), *size[1:])

    def _dense(self, base: Tensor | None) -> Tensor:
        return rows_of(self.whole.dense(), self.spans)


def rows_of(whole: Tensor, spans: Spans) -> Tensor:
    """Return spans of rows one after the other."""
    return torch.cat([whole[first:end] for first, end in spans])


def change_of_rows(change: WeightChange, spans: Spans) -> WeightChange | None:
    """Return the change of some rows; None where nothing is changed in them.

    Raises:
        ValueError: It is known only for the whole matrix.
    """
    if isinstance(change, Dora):
        if change.over_inputs:
            raise ValueError("DoRA over inputs, of a matrix that several modules share")
        # Where the low-rank part is nothing, the lengths may differ all the same.
        inner = change_of_rows(change.inner, spans) or Rows(change.inner, spans)
        return Dora(inner, rows_of(change.magnitude, spans))
    if change.needs_base:
        raise ValueError(f"{change.kind} of a matrix that several modules share")
    if not isinstance(change, LowRank) or change.mid is not None:
        return Rows(change, spans)
    up = rows_of(change.up, spans)
    taken = up.flatten(1).any(dim=0)
    rank = int(taken.sum())
    if not rank:
        return None
    if rank == change.rank:
        return replace(change, up=up)
    # Side by side lie the ranks of several modules; a module's own have the others' as zeros.
    alpha = change.alpha * rank / change.rank
    return replace(change, down=change.down[taken], up=up[:, taken], alpha=alpha)
