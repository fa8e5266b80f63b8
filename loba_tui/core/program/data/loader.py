"""Worker processes that decode ahead, without a bit of the result depending on them.

What a worker computes is a function of an index alone, and everything comes back in order. torch's
DataLoader does the work; it is given a generator of its own, because making its iterator takes a
number from the default one otherwise.
"""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch.utils.data import DataLoader, Dataset

from loba_tui.core.run.launching.children import end_with_parent

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Indexed(Protocol[T_co]):
    """Computes one piece of work from its index."""

    def __getitem__(self, index: int) -> T_co:
        """Return the piece; it must depend on nothing that changes."""
        ...


def in_order(work: Indexed[T], indices: Iterable[int], *, num_workers: int) -> Iterator[T]:
    """Yield the work of each index, computed ahead by workers where there are any."""
    if num_workers == 0:
        for index in indices:
            yield work[index]
        return
    loader = DataLoader(
        cast(Dataset[Any], work),  # all that torch needs of a data set is `__getitem__`
        batch_size=None,
        sampler=indices,
        num_workers=num_workers,
        collate_fn=_unchanged,
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),
        # Forked where that is safe: a spawned worker would import torch and diffusers first.
        multiprocessing_context="fork" if sys.platform == "linux" else None,
    )
    yield from loader


class Ahead(Generic[T]):
    """Gives the work of any index, computed ahead as long as indices come in order.

    A run that goes back to a checkpoint, or begins in the middle, asks for another index than the
    next one; then the workers begin anew from there.
    """

    def __init__(self, work: Indexed[T], *, num_workers: int) -> None:
        self._work = work
        self._num_workers = num_workers
        self._stream: Iterator[T] | None = None
        self._next = -1

    def __getitem__(self, index: int) -> T:
        """Return the work of an index."""
        if self._num_workers == 0:
            return self._work[index]
        if self._stream is None or index != self._next:
            self._stream = in_order(
                self._work, itertools.count(index), num_workers=self._num_workers
            )
        self._next = index + 1
        return next(self._stream)


def _unchanged(piece: T) -> T:
    return piece


def _begin_worker(_worker: int) -> None:
    """Make a worker end with the program, and leave signals to the program.

    Forked, it holds the program's lock on the run's folder: one that lived on would keep the folder
    in use.
    """
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
