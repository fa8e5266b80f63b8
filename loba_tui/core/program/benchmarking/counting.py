"""Counts of one training step: operators, operations, bytes, and waits for the device."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loba_tui.core.program.benchmarking.timing import wait_for
from loba_tui.core.program.planning.simulation import Allocations

_READ = torch.ops.aten._local_scalar_dense.default
_SYNC_WARNING = "synchronizing CUDA operation"


@dataclass(frozen=True)
class StepCounts:
    """Counts of one step.

    Attributes:
        operations: Operators that torch dispatched, views left out; on a GPU, about its launches.
        flops: Floating-point operations, two a multiply-add.
        peak_bytes: Most that the step's own tensors took at once.
        reads: How often a tensor was read as a number of Python.
    """

    operations: int
    flops: int
    peak_bytes: int
    reads: int


class _Counter(Allocations):
    """Counts reads besides operators, bytes and floating-point operations."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.reads += func is _READ
        return super().__torch_dispatch__(func, types, args, kwargs)


def count_step(step: Callable[[], object]) -> StepCounts:
    """Run a step and count what it does; what is alive before is not part of its bytes."""
    counter = _Counter()
    counter.ignore(live_tensors())
    with counter:
        step()
    return StepCounts(counter.operators, counter.flops, counter.peak_bytes, counter.reads)


def count_waits(step: Callable[[], object], device: torch.device) -> int | None:
    """Run a step and return how often the host waited for the device; None where nobody tells."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(_SYNC_WARNING in str(warning.message) for warning in caught)


def peak_of_allocator(step: Callable[[], object], device: torch.device) -> int | None:
    """Run a step and return the most bytes that torch had on the device; None if it is no CUDA."""
    if device.type != "cuda":
        step()
        return None
    torch.cuda.reset_peak_memory_stats(device)
    step()
    wait_for(device)
    return torch.cuda.max_memory_allocated(device)


def compile_seconds() -> float:
    """Return the seconds that this process has spent compiling so far."""
    from torch._dynamo.utils import calculate_time_spent  # nobody else needs to wait for it

    return float(calculate_time_spent()["total_wall_time"])


def live_tensors() -> Iterator[Tensor]:
    """Yield every tensor that Python knows of and that has memory of its own."""
    for thing in gc.get_objects():
        # Other kinds wrap plain ones, or are stand-ins that a compiler keeps; and isinstance would
        # ask proxies of libraries, some of which import or warn when they are asked.
        is_plain = type(thing) in (Tensor, nn.Parameter)
        if is_plain and not thing.is_meta and thing.layout == torch.strided:
            yield thing


def live_bytes(device: torch.device) -> int:
    """Return the bytes of all tensors on a kind of device, each storage once."""
    sizes = {}
    for tensor in live_tensors():
        if tensor.device.type == device.type:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())
