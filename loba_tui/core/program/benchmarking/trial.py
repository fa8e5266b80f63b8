"""One configuration of a recipe, measured: what a step takes, what it is made of, what it needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from loba_tui.core.plugins import Plugins
from loba_tui.core.program.benchmarking.alternatives import shortened
from loba_tui.core.program.benchmarking.bare_loop import (
    DenoiserCall,
    make_bare_loop,
    record_calls,
)
from loba_tui.core.program.benchmarking.counting import (
    compile_seconds,
    count_step,
    count_waits,
    live_bytes,
    peak_of_allocator,
)
from loba_tui.core.program.benchmarking.results import BareLoop, MemoryFigures, Row, Timing
from loba_tui.core.program.benchmarking.subject import Models, Subject, make_subject
from loba_tui.core.program.benchmarking.timing import Windows, time_steps, timed
from loba_tui.core.program.changed_text import changes_text_alone
from loba_tui.core.program.planning.estimate_records import Estimate
from loba_tui.core.program.planning.free_resources import free_memory
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import Records

STEPS_BEFORE_WINDOWS = 5
"""Two to warm up, and three that are counted."""
_IN_A_HURRY = Windows(fewest=1, most=1)
"""Of steps that are too long for more."""


@dataclass
class Trial:
    """A measured recipe.

    Attributes:
        recipe: With numbers in the place of `auto`, and nothing but steps.
        estimate: Of it.
        until: `time.monotonic()` after which no more than the fewest windows are timed.
        bare_loop: The loop that was timed beside it.
    """

    recipe: Recipe
    estimate: Estimate
    device: torch.device
    plugins: Plugins
    windows: Windows
    until: float
    bare_loop: BareLoop | None = None
    _calls: list[DenoiserCall] = field(default_factory=list)
    _seconds: float = 0.0

    @property
    def is_hurried(self) -> bool:
        """Whether its steps are too long for all that is to be measured in the time."""
        steps = STEPS_BEFORE_WINDOWS - 2 + self.windows.fewest
        return time.monotonic() + self._seconds * steps > self.until

    def measure(
        self,
        row: Row,
        models: Models,
        run_dir: RunDir,
        records: Records,
        *,
        with_bare_loop: bool,
        on_open: Callable[[Subject], None],
    ) -> Row:
        """Return a row with its figures; the run's memory is free again once this has returned.

        Args:
            row: To be completed.
            models: Opens its model.
            run_dir: A folder that nothing is written to.
            records: Told what is being done.
            with_bare_loop: Time a bare loop beside it.
            on_open: Told of the run once it is ready.
        """
        records.status(phase="building")
        before = live_bytes(self.device)
        subject = make_subject(shortened(self.recipe, self.plugins), models, run_dir)
        on_open(subject)
        records.status(phase="warming up")
        is_compiled = self.recipe.train.compile != "none"
        compiled_before = compile_seconds() if is_compiled else 0.0
        subject.step()
        self._seconds, _ = timed(subject.step, self.device)
        with_bare_loop = with_bare_loop and not self.is_hurried
        windows = _IN_A_HURRY if self.is_hurried else self.windows
        records.status(phase="counting")
        row = self._counted(subject, row, before)
        records.status(phase="timing")
        if with_bare_loop and not changes_text_alone(self.recipe, self.plugins):
            timing = self._timed_beside_bare_loop(subject, models)
        else:
            (timing,) = self._timed([subject.step], windows, self.until)
        if is_compiled:
            row = replace(row, compile_seconds=compile_seconds() - compiled_before)
        start = row.start_rows * timing.median / row.rows_per_step if row.rows_per_step else 0.0
        return replace(row, seconds_per_step=timing, start_seconds=start)

    def _counted(self, subject: Subject, row: Row, before: int) -> Row:
        """Count what a step is made of; `before` are bytes of tensors that are not the run's."""
        device = self.device
        rows, step = subject.num_rows, subject.run.step
        waits = count_waits(subject.step, device)
        resident = live_bytes(device) - before
        counts, peak = None, None
        if self.recipe.train.compile == "none":  # what is compiled dispatches nothing to count
            counts = count_step(subject.step)
            peak = resident + counts.peak_bytes
        if device.type == "cuda" or counts is None:
            peak = peak_of_allocator(subject.step, device)
        memory = self.estimate.memory
        return replace(
            row,
            rows_per_step=(subject.num_rows - rows) / (subject.run.step - step),
            flops_per_step=float(self.estimate.work.flops_per_step if not counts else counts.flops),
            operations_per_step=None if counts is None else counts.operations,
            syncs_per_step=counts.reads if waits is None and counts is not None else waits,
            memory=MemoryFigures(peak, memory.training, memory.needed),
        )

    def _timed(
        self, steppers: Sequence[Callable[[], object]], windows: Windows, until: float
    ) -> list[Timing]:
        return time_steps(
            steppers, self.device, seconds=self._seconds, windows=windows, until=until
        )

    def _timed_beside_bare_loop(self, subject: Subject, models: Models) -> Timing:
        """Time a recipe's steps in turns with a bare loop's; alone where both do not fit."""
        calls = record_calls(subject)
        free = free_memory(self.device)
        if free is not None and free < self.estimate.memory.needed:
            self._calls = calls
            half = max(0.0, self.until - time.monotonic()) / 2
            return self._timed([subject.step], self.windows, time.monotonic() + half)[0]
        bare = make_bare_loop(subject.recipe, calls, models, self.plugins)
        bare()
        timing, of_bare = self._timed([subject.step, bare], self.windows, self.until)
        self._note_bare_loop(timing, of_bare, side_by_side=True)
        return timing

    def time_bare_loop(self, timing: Timing, models: Models) -> None:
        """Time a bare loop that did not fit beside the recipe's own steps, whose timing is known.

        To be called when their memory is free.
        """
        if not self._calls:
            return
        recipe = shortened(self.recipe, self.plugins)
        bare = make_bare_loop(recipe, self._calls, models, self.plugins)
        bare()
        (of_bare,) = self._timed([bare], self.windows, self.until)
        self._note_bare_loop(timing, of_bare, side_by_side=False)

    def _note_bare_loop(self, ours: Timing, bare: Timing, *, side_by_side: bool) -> None:
        if self.device.type == "cpu":
            overhead = ours.cpu_median / bare.cpu_median
            self.bare_loop = BareLoop(bare, overhead, "cpu", side_by_side)
        else:
            self.bare_loop = BareLoop(bare, ours.median / bare.median, "wall", side_by_side)
