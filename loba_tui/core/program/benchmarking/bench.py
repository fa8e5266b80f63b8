"""`loba bench`: a recipe and its alternatives, measured on this device within a time.

Each configuration is a model of its own, with the recipe's adapter, method, optimizer and trainer.
What fails, or does not fit, is a row that says so.
"""

from __future__ import annotations

import gc
import logging
import re
import time
from collections.abc import Sequence
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
)
from loba_tui.core.program.benchmarking.facts import machine_facts, model_facts, recipe_facts
from loba_tui.core.program.benchmarking.results import MemoryFigures, Results, Row
from loba_tui.core.program.benchmarking.subject import Models, Subject
from loba_tui.core.program.benchmarking.timing import Windows, matmul_peak
from loba_tui.core.program.benchmarking.trial import STEPS_BEFORE_WINDOWS, Trial
from loba_tui.core.program.benchmarking.true_size import at_true_size
from loba_tui.core.program.planning.automatic import settle
from loba_tui.core.program.planning.estimate import Estimator
from loba_tui.core.program.planning.estimate_records import Estimate
from loba_tui.core.program.planning.free_resources import free_memory
from loba_tui.core.program.planning.preflight import is_out_of_memory
from loba_tui.core.program.planning.remedies import with_changes
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import Records
from loba_tui.core.units import show_memory
from loba_tui.models import BUILTIN_PREFIX

logger = logging.getLogger(__name__)

_PATH = re.compile(r"\S*/\S*/\S*")
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
    num_steps = (NUM_ALTERNATIVES + 2) * (STEPS_BEFORE_WINDOWS + windows.fewest)
    recipe, note = at_true_size(recipe, plugins, most_seconds=60 * minutes / num_steps)
    notes += [note] if note else []
    settled = settle(recipe, Estimator(device, plugins), free_memory(device))
    recipe = settled.recipe
    notes += [f"{settled}."] if settled.change else []
    found = configurations(recipe, tries, plugins, device.type)
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
    _has_compiled: bool = False

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
            return self._measure(configuration, row, until)
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
        trial = self._trial(configuration, until)
        recipe, memory = trial.recipe, trial.estimate.memory
        row = replace(
            row,
            memory=MemoryFigures(None, memory.training, memory.needed),
            samples_per_step=recipe.train.micro_batch_size * recipe.train.gradient_accumulation,
            start_rows=trial.estimate.work.warm_up_rows,
        )
        free = free_memory(self.device)
        if self.device.type == "cpu" and free is not None and memory.needed > free:
            # A CPU's memory that runs out ends the whole process, and others with it.
            message = f"needs {show_memory(memory.needed)}, and {show_memory(free)} are free"
            return replace(row, outcome="too_large", message=message)
        self._release()  # of what the estimate was made with
        self._has_compiled = recipe.train.compile != "none"
        row = trial.measure(
            row,
            self._models,
            self.run_dir,
            self.records,
            with_bare_loop=not configuration.changes,
            on_open=lambda subject: self._note_model(subject, trial.estimate),
        )
        self._release()
        assert row.seconds_per_step is not None
        try:
            trial.time_bare_loop(row.seconds_per_step, self._models)
        except Exception as error:  # the row is there all the same
            if not is_out_of_memory(error):
                raise
            self.results.notes.append("A bare loop runs out of memory.")
        if not configuration.changes:
            self.results.bare_loop = trial.bare_loop
            if trial.bare_loop is None and trial.is_hurried:
                self.results.notes.append("Steps were too long to time a bare loop beside them.")
        peak, flops = self.results.peak, row.flops_per_step
        if peak is None or flops is None:
            return row
        reached = flops / row.seconds_per_step.median
        return replace(row, share_of_peak=reached / peak.flops_per_second)

    def _trial(self, configuration: Configuration, until: float) -> Trial:
        """Return what measures a configuration, its estimate made."""
        self.records.status(phase="estimating")
        # Its networks take memory, which is free again once this has returned.
        estimator = Estimator(self.device, self.plugins)
        recipe = measurable(configuration.recipe, self.plugins)
        recipe = settle(recipe, estimator, free_memory(self.device)).recipe
        estimate = estimator.estimate(recipe)
        return Trial(recipe, estimate, self.device, self.plugins, self.windows, until)

    def _note_model(self, subject: Subject, estimate: Estimate) -> None:
        """Note what is measured, and what the device can do at most in the same dtype."""
        if self.results.model:
            return
        container = subject.model.container
        self.results.model = model_facts(subject.recipe.base_model.id, container, estimate)
        self.results.machine = machine_facts(self.device)  # it has the threads of this model
        self.results.peak = matmul_peak(self.device, container.dtype)

    def _release(self) -> None:
        """Give the memory of the last configuration back."""
        if self._has_compiled:  # compiled code keeps graphs and their memory
            torch.compiler.reset()
            self._has_compiled = False
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    """Return what an error says, without paths: rows are shared."""
    text = error.message if isinstance(error, LobaError) else str(error).strip()
    first = _PATH.sub("…", text.splitlines()[0]) if text else ""
    named = "" if isinstance(error, LobaError) else type(error).__name__
    return ": ".join(filter(None, (named, first)))
