"""Before the first step: say what the run will need, and refuse what cannot fit.

After it: set the estimate beside what was measured. When memory runs out all the same, the
estimator says which change of the recipe would fit.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from loba_tui.core.errors import LobaError, RecipeError, ResourceError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.engines.base import Engine
from loba_tui.core.program.planning.automatic import (
    divide_global_batch,
    leaves_choices,
    settle,
    with_open_batch,
)
from loba_tui.core.program.planning.estimate import Estimator
from loba_tui.core.program.planning.estimate_records import Estimate
from loba_tui.core.program.planning.free_resources import free_memory, free_resources
from loba_tui.core.program.planning.known_estimates import estimate_of
from loba_tui.core.program.planning.remedies import (
    advice,
    as_keys,
    memory_remedies,
    require_fit,
)
from loba_tui.core.program.steering.context import RunContext
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.writer import Records
from loba_tui.core.units import show_memory

logger = logging.getLogger(__name__)

_COMPARABLE_BYTES = 512 * 2**20
"""On a CPU, less than this is lost among what libraries take for themselves."""
_SAFETY = 0.9
"""What ran out was estimated too low, so a remedy has to stay this far below it."""


@dataclass
class Preflight:
    """The estimate of a run that is about to start.

    Attributes:
        recipe: With numbers in the place of `auto`, once `settle` was called.
    """

    recipe: Recipe
    device: torch.device
    plugins: Plugins
    num_processes: int = 1
    _estimator: Estimator = field(init=False)
    _estimate: Estimate | None = None
    _resident_before: int = field(default_factory=lambda: psutil.Process().memory_info().rss)

    def __post_init__(self) -> None:
        self._estimator = Estimator(self.device, self.plugins, processes=self.num_processes)

    def settle(self, context: RunContext, engine: Engine) -> Recipe:
        """Return the recipe with numbers in the place of `auto`, the same for every process.

        They take the place of `auto` in the run's own recipe too: to resume or to replay it on
        another machine makes the same steps. The engine learns what it is to accumulate.

        Raises:
            RecipeError: The recipe does not fit its model, or several processes cannot train it.
        """
        written, processes = self.recipe, context.processes
        _refuse_several(written, processes.num)
        self.recipe = divide_global_batch(written, processes.num_data)
        if written.train.batch_size is None:
            whole, share = written.train.global_batch_size, self.recipe.train.micro_batch_size
            noun = "process" if processes.num_data == 1 else "processes"
            reason = f"global_batch_size {whole} over {processes.num_data} {noun}"
            keys = as_keys({"train.batch_size": share})
            context.records.event("chosen", keys=keys, reason=reason)
        if not leaves_choices(self.recipe):
            return self.recipe
        free = processes.least(free_memory(self.device))
        settled = None
        if processes.is_first:
            settled = settle(self.recipe, self._estimator, free)
            kept = dump_recipe(with_open_batch(settled.recipe, written))
            context.run_dir.recipe.replace(kept.encode(), sync=True)
            context.records.event("chosen", keys=as_keys(settled.change), reason=settled.reason)
        self.recipe = processes.share(settled).recipe
        engine.accelerator.gradient_accumulation_steps = self.recipe.train.gradient_accumulation
        return self.recipe

    def announce(self, writer: Records, folder: Path, *, force: bool = False) -> None:
        """Write what the run will need as an event; nothing is loaded yet.

        Raises:
            ResourceError: It cannot fit in the free memory or disk, and is not forced to start.
        """
        estimator = self._estimator
        try:
            self._estimate = estimate_of(self.recipe, estimator)
        except LobaError:
            raise
        except Exception as error:
            # A method that cannot be watched can still train.
            logger.warning("no estimate", exc_info=True)
            writer.event("warning", message=f"what this run will need is not known: {error}")
            return
        free = free_resources(self.device, folder)
        writer.event(
            "estimated",
            **self._estimate.as_json(),
            free_memory=free.memory_bytes,
            free_disk=free.disk_bytes,
        )
        try:
            require_fit(estimator, self.recipe, self._estimate, free)
        except ResourceError as error:
            if not force:
                raise
            writer.event("warning", message=f"{error.message}; --force starts it all the same")
        # The networks that it has by now are of no use while the run goes on.
        self._estimator = Estimator(self.device, self.plugins, processes=self.num_processes)
        self._resident_before = psutil.Process().memory_info().rss

    def compare(self, writer: Records) -> None:
        """Write the estimated and the measured memory of the first step as an event."""
        if self._estimate is None:
            return
        if self.device.type == "cuda":
            measured = torch.cuda.max_memory_allocated(self.device)
        else:
            measured = psutil.Process().memory_info().rss - self._resident_before
        memory = self._estimate.memory
        # Loading is behind it and the peak counts it; drawing is still to come.
        estimated = max(memory.training, memory.loading)
        writer.event(
            "measured_memory",
            estimated=estimated,
            measured=measured,
            ratio=round(measured / estimated, 3),
            is_comparable=self.device.type == "cuda" or estimated >= _COMPARABLE_BYTES,
        )

    @contextmanager
    def explains_out_of_memory(self) -> Iterator[None]:
        """Turn an out-of-memory error inside a `with` block into one that says what would fit."""
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise self.out_of_memory(error) from error

    def out_of_memory(self, error: BaseException) -> ResourceError:
        """Return what to tell the user when memory ran out, with changes that would fit."""
        facts, capacity = self._state_of_memory()
        hint = "Take base_model.gradient_checkpointing: true, or a smaller train.batch_size."
        try:
            estimator = self._estimator
            estimate = self._estimate or estimator.estimate(self.recipe)
            limit = min(capacity or estimate.memory.needed, int(_SAFETY * estimate.memory.needed))
            hint = advice(memory_remedies(estimator, self.recipe, estimate, limit=limit))
        except Exception:
            # The first error is the one to report.
            logger.warning("no advice", exc_info=True)
        first_line = str(error).split("\n", maxsplit=1)[0]
        return ResourceError(f"out of memory on {self.device}{facts}: {first_line}", hint)

    def _state_of_memory(self) -> tuple[str, int | None]:
        """Return peak, reserved and free as text, and what the run could have at all."""
        free = free_memory(self.device)
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            reserved = torch.cuda.memory_reserved(self.device)
            capacity = torch.cuda.mem_get_info(self.device)[0] + reserved
            text = (
                f" (peak {show_memory(peak)}, reserved {show_memory(reserved)},"
                f" free {show_memory(capacity - reserved)})"
            )
            return text, capacity
        resident = psutil.Process().memory_info().rss
        if free is None:
            return f" (resident {show_memory(resident)})", None
        return f" (resident {show_memory(resident)}, free {show_memory(free)})", free + resident


_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "could not create a memory",  # oneDNN's
    "can't start new thread",  # there is no room for its stack
)


def _refuse_several(recipe: Recipe, num_processes: int) -> None:
    if recipe.base_model.offload == "blocks" and num_processes > 1:
        # Data parallelism sends all weights to the other processes, from the device alone.
        raise RecipeError(
            f"base_model.offload: blocks is for one process, and there are {num_processes}",
            "Start one, or take base_model.offload: none.",
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    return isinstance(error, RuntimeError) and any(said in text for said in _OUT_OF_MEMORY)
