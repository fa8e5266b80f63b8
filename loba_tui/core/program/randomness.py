"""Counter-based randomness: every draw is keyed, so a resumed run repeats it exactly.

Nothing here keeps state. A generator is a pure function of the run's seed and a key such as
(step, use), which makes draws independent of thread timing, caches and how often a run was resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, *key: int | str) -> torch.Generator:
    """Return a CPU generator for one use, the same for the same seed and key on every machine."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little"))


def normal(shape: Sequence[int], seed: int, *key: int | str) -> Tensor:
    """Return standard normal float32 noise of `shape` on the CPU for one use."""
    return torch.randn(tuple(shape), generator=generator(seed, *key))


def integer(high: int, seed: int, *key: int | str) -> int:
    """Return a uniform whole number in [0, high) for one use."""
    return int(torch.randint(high, (), generator=generator(seed, *key)))


def weighted_choice(weights: Tensor, count: int, seed: int, *key: int | str) -> list[int]:
    """Return `count` different indices, likelier where the (N,) weights are larger."""
    return torch.multinomial(
        weights.double().cpu(), count, replacement=False, generator=generator(seed, *key)
    ).tolist()
