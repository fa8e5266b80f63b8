"""`loba bench`: a recipe and its alternatives, measured on this device within a time.

Each configuration is a model of its own, with the recipe's adapter, method, optimizer and trainer.
What fails, or does not fit, is a row that says so.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from loba_tui.core.associate.devices import resolve_device
from loba_tui.core.errors import LobaError, ResourceError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.benchmarking.alternatives import (
    NUM_ALTERNATIVES,
    Configuration,
    configurations,
    measurable,
    shortened,
)
from loba_tui.core.program.benchmarking.bare_loop import (
    DenoiserCall,
    make_bare_loop,
    record_calls,
)
from loba_tui.core.program.benchmarking.counting import count_step, count_waits, live_bytes
from loba_tui.core.program.benchmarking.facts import machine_facts, model_facts, recipe_facts
from loba_tui.core.program.benchmarking.results import (
    BareLoop,
    MemoryFigures,
    Results,
    Row,
    Timing,
)
from loba_tui.core.program.benchmarking.subject import Models, Subject, make_subject
from loba_tui.core.program.benchmarking.timing import (
    Windows,
    matmul_peak,
    time_steps,
    timed,
    wait_for,
)
from loba_tui.core.program.benchmarking.true_size import at_true_size
from loba_tui.core.program.changed_text import changes_text_alone
from loba_tui.core.program.planning.automatic import settle
from loba_tui.core.program.planning.estimate import Estimator
from loba_tui.core.program.planning.free_resources import free_memory
from loba_tui.core.program.planning.preflight import is_out_of_memory
from loba_tui.core.program.planning.remedies import with_changes
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import Records
from loba_tui.core.units import show_memory
from loba_tui.models import BUILTIN_PREFIX

logger = logging.getLogger(__name__)

_STEPS_BEFORE_WINDOWS = 6
"""Two to warm up, three that are counted, one that says how long a window is."""
_IN_A_HURRY = Windows(fewest=1, most=2)
"""Of steps that are too long for more."""
_QUICK = Windows(fewest=2, most=3)
_EMBEDDED_MINUTES = 1.5
"""An embedded model tells no more in a longer time."""


def run_bench(
    recipe: Recipe,
    tries: Sequence[Sequence[str]],
    *,
    minutes: float,
    quick: bool,
    run_dir: RunDir,
    records: Records,
    plugins: Plugins,
) -> Results:
    """Measure a recipe and alternatives to it.

    Args:
        recipe: Its model is made of random numbers, unless it is an embedded one.
        tries: Assignments `KEY=VALUE` of each alternative; none takes three that are worth trying.
        minutes: The most that all of it takes, but for a step that is under way.
        quick: Time a few windows alone.
        run_dir: A folder that nothing of the runs is written to.
        records: Told of each row as soon as it is there.
        plugins: The recipe's drop-ins.

    Raises:
        RecipeError: The recipe has no steps, or a wanted change does not fit it.
    """
    begin = time.monotonic()
    windows = _QUICK if quick else Windows()
    recipe, notes = _on_a_device_that_is_here(recipe)
    device = resolve_device(recipe.base_model.device)
    measurable(recipe, plugins)  # what cannot be measured is said before anything is made
    records.status(phase="choosing a model")
    num_steps = (NUM_ALTERNATIVES + 2) * (_STEPS_BEFORE_WINDOWS + windows.fewest)
    recipe, note = at_true_size(recipe, most_seconds=60 * minutes / num_steps)
    notes += [note] if note else []
    settled = settle(recipe, Estimator(device, plugins), free_memory(device))
    recipe = settled.recipe
    notes += [f"{settled}."] if settled.change else []
    found = configurations(recipe, tries, plugins)
    results = Results(machine_facts(device), recipe_facts(recipe), {}, notes=notes)
    if recipe.base_model.id.startswith(BUILTIN_PREFIX):
        minutes = min(minutes, _EMBEDDED_MINUTES)
    bench = Bench(device, plugins, run_dir, records, windows, begin + 60 * minutes, results)
    for number, configuration in enumerate(found):
        records.status(step=number, total=len(found))
        row = bench.measure(configuration, num_left=len(found) - number)
        results.rows.append(row)
        records.event("benched", **row.as_json())
    records.status(step=len(found), total=len(found))
    results.seconds = round(time.monotonic() - begin, 1)
    return results


def _on_a_device_that_is_here(recipe: Recipe) -> tuple[Recipe, list[str]]:
    try:
        resolve_device(recipe.base_model.device)
    except ResourceError as error:
        note = f"{error.message} The best device there is was taken."
        return with_changes(recipe, {"base_model.device": "auto"}), [note]
    return recipe, []


@dataclass
class Bench:
    """Measures configurations one after the other, and keeps to a time.

    `deadline` is a time of `time.monotonic()`.
    """

    device: torch.device
    plugins: Plugins
    run_dir: RunDir
    records: Records
    windows: Windows
    deadline: float
    results: Results
    _models: Models = field(init=False)
    _calls: list[DenoiserCall] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._models = Models(self.plugins)

    def measure(self, configuration: Configuration, *, num_left: int) -> Row:
        """Return the row of a configuration, which may take its share of the time that is left.

        Raises:
            LobaError: The recipe as it stands cannot be trained.
        """
        row = Row(configuration.name, configuration.changes)
        now = time.monotonic()
        if now >= self.deadline and configuration.changes:
            return replace(row, outcome="no_time", message="the time was up")
        # The recipe as it stands has a bare loop beside it.
        shares = num_left if configuration.changes else (num_left + 1) / 2
        until = now + max(0.0, self.deadline - now) / shares
        try:
            row = self._measure(configuration, row, until)
            self._release()
            self._time_bare_loop(configuration, row, until)
            return row
        except Exception as error:
            if is_out_of_memory(error):
                free = free_memory(self.device)
                left = "" if free is None else f" with {show_memory(free)} free now"
                message = f"{_first_line(error)}{left}"
                return replace(row, outcome="out_of_memory", message=message)
            if not configuration.changes:
                raise
            logger.warning("%s cannot be measured", configuration.name, exc_info=True)
            return replace(row, outcome="failed", message=_first_line(error))
        finally:
            self._release()

    def _measure(self, configuration: Configuration, row: Row, until: float) -> Row:
        self.records.status(phase="estimating")
        recipe = measurable(configuration.recipe, self.plugins)
        estimator = Estimator(self.device, self.plugins)
        recipe = settle(recipe, estimator, free_memory(self.device)).recipe
        estimate = estimator.estimate(recipe)
        del estimator  # its networks take memory
        memory = MemoryFigures(None, estimate.memory.training, estimate.memory.needed)
        row = replace(
            row,
            memory=memory,
            samples_per_step=recipe.train.micro_batch_size * recipe.train.gradient_accumulation,
            start_rows=estimate.work.warm_up_rows,
        )
        free = free_memory(self.device)
        if self.device.type == "cpu" and free is not None and memory.needed > free:
            # A CPU's memory that runs out ends the whole process, and others with it.
            message = f"needs {show_memory(memory.needed)}, and {show_memory(free)} are free"
            return replace(row, outcome="too_large", message=message)
        self._release()
        before = live_bytes(self.device)
        self.records.status(phase="building")
        subject = make_subject(shortened(recipe, self.plugins), self._models, self.run_dir)
        if not self.results.model:
            container = subject.model.container
            self.results.model = model_facts(recipe.base_model.id, container, estimate)
            self.results.machine = machine_facts(self.device)  # it has the threads of this model
            self.results.peak = matmul_peak(self.device, subject.model.container.dtype)
        self.records.status(phase="warming up")
        subject.step()
        seconds, _ = timed(subject.step, self.device)
        left = until - time.monotonic()
        is_slow = seconds * (_STEPS_BEFORE_WINDOWS + self.windows.fewest) > left
        windows = _IN_A_HURRY if is_slow else self.windows
        self.records.status(phase="counting")
        row = self._counted(subject, row, before)
        self.records.status(phase="timing")
        if is_slow and not configuration.changes:
            self.results.notes.append("Steps were too long to time a bare loop beside them.")
        if configuration.changes or is_slow:
            (timing,) = time_steps([subject.step], self.device, windows=windows, until=until)
        else:
            timing = self._timed_beside_bare_loop(subject, until, memory.needed)
        return self._with_shares(row, timing)

    def _counted(self, subject: Subject, row: Row, before: int) -> Row:
        """Count what a step is made of; `before` are bytes of tensors that are not the run's."""
        device, is_cuda = self.device, self.device.type == "cuda"
        rows, step = subject.num_rows, subject.run.step
        waits = count_waits(subject.step, device)
        resident = live_bytes(device) - before
        counts = count_step(subject.step)
        peak = resident + counts.peak_bytes
        if is_cuda:
            torch.cuda.reset_peak_memory_stats(device)
            subject.step()
            wait_for(device)
            peak = torch.cuda.max_memory_allocated(device)
        assert row.memory is not None
        return replace(
            row,
            rows_per_step=(subject.num_rows - rows) / (subject.run.step - step),
            flops_per_step=float(counts.flops),
            operations_per_step=counts.operations,
            syncs_per_step=counts.reads if waits is None else waits,
            memory=replace(row.memory, measured=peak),
        )

    def _timed(self, steppers: Sequence[Callable[[], object]], until: float) -> list[Timing]:
        return time_steps(steppers, self.device, windows=self.windows, until=until)

    def _timed_beside_bare_loop(self, subject: Subject, until: float, needed: int) -> Timing:
        """Time a recipe's steps in turns with a bare loop's; alone where both do not fit."""
        recipe = subject.recipe
        if changes_text_alone(recipe, self.plugins):
            return self._timed([subject.step], until)[0]
        calls = record_calls(subject)
        free = free_memory(self.device)
        if free is not None and free < needed:
            self._calls = calls
            middle = time.monotonic() + max(0.0, until - time.monotonic()) / 2
            return self._timed([subject.step], middle)[0]
        bare = make_bare_loop(recipe, calls, self._models, self.plugins)
        bare()
        timing, of_bare = self._timed([subject.step, bare], until)
        self._note_bare_loop(timing, of_bare, side_by_side=True)
        return timing

    def _time_bare_loop(self, configuration: Configuration, row: Row, until: float) -> None:
        """Time a bare loop that did not fit beside the recipe's own steps."""
        calls, self._calls = self._calls, []
        if not calls or row.seconds_per_step is None:
            return
        recipe = shortened(measurable(configuration.recipe, self.plugins), self.plugins)
        bare = make_bare_loop(recipe, calls, self._models, self.plugins)
        bare()
        (of_bare,) = self._timed([bare], until)
        self._note_bare_loop(row.seconds_per_step, of_bare, side_by_side=False)

    def _note_bare_loop(self, ours: Timing, bare: Timing, *, side_by_side: bool) -> None:
        if self.device.type == "cpu":
            overhead = ours.cpu_median / bare.cpu_median
            self.results.bare_loop = BareLoop(bare, overhead, "cpu", side_by_side)
        else:
            self.results.bare_loop = BareLoop(bare, ours.median / bare.median, "wall", side_by_side)

    def _with_shares(self, row: Row, timing: Timing) -> Row:
        """Return the row with its timing and what follows from it."""
        peak, flops, share = self.results.peak, row.flops_per_step, None
        if peak is not None and flops is not None:
            share = flops / timing.median / peak.flops_per_second
        start = row.start_rows * timing.median / row.rows_per_step if row.rows_per_step else 0.0
        return replace(row, seconds_per_step=timing, share_of_peak=share, start_seconds=start)

    def _release(self) -> None:
        """Give the memory of the last configuration back."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    if isinstance(error, LobaError):
        return error.message
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
