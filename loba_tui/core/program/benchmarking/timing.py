"""Seconds of steps, and of the fastest multiplications that a device makes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from loba_tui.core.associate.machine import dtype_name
from loba_tui.core.program.benchmarking.results import Peak, Timing

_WINDOW_SECONDS = 0.4
"""Windows shorter than this are lost among the clock's and the machine's own ticks."""
_PEAK_SIDES = {"cuda": 8192, "mps": 4096, "cpu": 1024}
_PEAK_SECONDS = 0.3
_PEAK_REPEATS = 3


@dataclass(frozen=True)
class Windows:
    """How many windows are timed: at least the fewest, then until the time is up or enough."""

    fewest: int = 3
    most: int = 12


def wait_for(device: torch.device) -> None:
    """Return once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Return the wall and CPU seconds of some work, the device's part of it included."""
    wait_for(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wait_for(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def time_steps(
    steppers: Sequence[Callable[[], object]],
    device: torch.device,
    *,
    seconds: float,
    windows: Windows,
    until: float,
) -> list[Timing]:
    """Return the timing of each stepper, which take turns, so that a machine's drift hits all.

    Args:
        steppers: Each makes one step; warmed up.
        device: What the steps run on.
        seconds: About what a step takes.
        windows: How many are timed.
        until: `time.monotonic()` after which no more than the fewest windows are timed.
    """
    steps_each = max(1, round(_WINDOW_SECONDS / max(seconds, 1e-4)))
    walls: list[list[float]] = [[] for _ in steppers]
    cpus: list[list[float]] = [[] for _ in steppers]
    for number in range(windows.most):
        if number >= windows.fewest and time.monotonic() >= until:
            break
        for place, stepper in enumerate(steppers):
            wall, cpu = timed(partial(_repeat, stepper, steps_each), device)
            walls[place].append(wall / steps_each)
            cpus[place].append(cpu / steps_each)
    return [
        Timing.of(of_walls, of_cpus, steps_each)
        for of_walls, of_cpus in zip(walls, cpus, strict=True)
    ]


def _repeat(step: Callable[[], object], count: int) -> None:
    for _ in range(count):
        step()


def matmul_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """Return the most floating-point operations a second that products of squares reach here.

    It is measured, on large matrices of this dtype and with the present settings: what a maker
    states for a device is reached by nobody.
    """
    side = _PEAK_SIDES.get(device.type, 1024)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.matmul(left, right, out=out)

    timed(multiply, device)  # the first one chooses a kernel
    once, _ = timed(multiply, device)
    count = max(1, round(_PEAK_SECONDS / max(once, 1e-5)))
    tries = [timed(partial(_repeat, multiply, count), device)[0] for _ in range(_PEAK_REPEATS)]
    return Peak(2 * side**3 * count / min(tries), side, dtype_name(dtype))
