"""Figures of a benchmark, as they are written to JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["measured", "out_of_memory", "too_large", "no_time", "failed"]

BENCH_VERSION = 1


@dataclass(frozen=True)
class Timing:
    """Seconds of one optimizer step: median, least and most of several windows of steps.

    Attributes:
        cpu_median: Of the process's CPU time, over all its threads.
        num_steps: Steps in all windows together.
    """

    median: float
    least: float
    most: float
    cpu_median: float
    num_windows: int
    num_steps: int

    @classmethod
    def of(cls, walls: Sequence[float], cpus: Sequence[float], steps_each: int) -> Timing:
        """Return the timing of windows, whose seconds are given for one step each."""
        return cls(
            statistics.median(walls),
            min(walls),
            max(walls),
            statistics.median(cpus),
            len(walls),
            len(walls) * steps_each,
        )


@dataclass(frozen=True)
class Peak:
    """The most floating-point operations a second, of products of `side` by `side` numbers."""

    flops_per_second: float
    side: int
    dtype: str


@dataclass(frozen=True)
class MemoryFigures:
    """Peak bytes of a step on the device, and what `loba plan` says of it.

    Attributes:
        measured: By torch's allocator on CUDA; elsewhere counted from the tensors of one step.
        estimated: The estimate of training, without its margin.
        needed: The estimate of the whole run with its margin, which a run is refused by.
    """

    measured: int | None
    estimated: int
    needed: int


@dataclass(frozen=True)
class Row:
    """One configuration of the recipe, measured or not.

    Attributes:
        name: The configuration in words; `changes` has it as recipe keys.
        samples_per_step: Rows that a step trains, over all its micro-steps.
        rows_per_step: UNet rows of a step; one with a backward pass counts as two.
        flops_per_step: Floating-point operations, counted; None where nothing could be counted.
        share_of_peak: Of the device's measured peak.
        operations_per_step: Operators that torch dispatches; None for compiled code.
        syncs_per_step: How often the host waits for the device; on a CPU, how often a tensor is
            read as a number.
        compile_seconds: What the first steps took more than later ones, where code is compiled.
        start_rows: UNet rows before the first step, such as a bank's.
        start_seconds: About what those take.
        message: Why there are no figures.
    """

    name: str
    changes: Mapping[str, Any]
    outcome: Outcome = "measured"
    seconds_per_step: Timing | None = None
    samples_per_step: int = 0
    rows_per_step: float = 0.0
    flops_per_step: float | None = None
    share_of_peak: float | None = None
    operations_per_step: int | None = None
    syncs_per_step: int | None = None
    compile_seconds: float | None = None
    start_rows: float = 0.0
    start_seconds: float | None = None
    memory: MemoryFigures | None = None
    message: str = ""

    @property
    def samples_per_second(self) -> float | None:
        """Trained rows a second; None where it was not measured."""
        timing = self.seconds_per_step
        return None if timing is None else self.samples_per_step / timing.median

    @property
    def rows_per_second(self) -> float | None:
        """UNet rows a second; None where it was not measured."""
        timing = self.seconds_per_step
        return None if timing is None else self.rows_per_step / timing.median

    def as_json(self) -> dict[str, Any]:
        """Return a plain object."""
        return {
            **asdict(self),
            "changes": dict(self.changes),
            "samples_per_second": self.samples_per_second,
            "rows_per_second": self.rows_per_second,
        }


@dataclass(frozen=True)
class BareLoop:
    """A loop written by hand over the same calls of the same network.

    Attributes:
        overhead: Seconds of the recipe's step over seconds of this loop's.
        clock: Which seconds: "wall", or "cpu" on a CPU, where other programs disturb the wall.
        side_by_side: Whether both were timed in turns; else one after the other.
    """

    seconds_per_step: Timing
    overhead: float
    clock: Literal["wall", "cpu"]
    side_by_side: bool


@dataclass
class Results:
    """Everything that a benchmark found."""

    machine: Mapping[str, Any]
    recipe: Mapping[str, Any]
    model: Mapping[str, Any]
    peak: Peak | None = None
    rows: list[Row] = field(default_factory=list)
    bare_loop: BareLoop | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the document that `loba bench --json` writes."""
        return {
            "version": BENCH_VERSION,
            "machine": dict(self.machine),
            "recipe": dict(self.recipe),
            "model": dict(self.model),
            "peak": None if self.peak is None else asdict(self.peak),
            "configurations": [row.as_json() for row in self.rows],
            "bare_loop": None if self.bare_loop is None else asdict(self.bare_loop),
            "seconds": self.seconds,
            "notes": list(self.notes),
        }
