"""The training loop and one step of it; everything it works with arrives finished."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from loba_tui.core.errors import Interrupted, NumericsError
from loba_tui.core.program.checkpoint import Checkpoint, CheckpointStore
from loba_tui.core.program.method import Method
from loba_tui.core.program.optimizer_state import (
    LearningRates,
    averaged_weights,
    export_state,
    import_state,
)
from loba_tui.core.program.trajectories import ForwardCounter
from loba_tui.core.recipe.schema import SaveSection, TrainSection
from loba_tui.core.run.writer import RunWriter


@dataclass(frozen=True)
class TrainerParts:
    """Finished objects that a trainer works with.

    Attributes:
        accelerator: Carries precision, accumulation and processes.
        student: The denoiser as the accelerator prepared it.
        method: What a step predicts, and its loss.
        optimizer: As the accelerator prepared it.
        learning_rates: Rates by step and group.
        parameters: The trainable parameters by name, float32.
        counter: UNet rows computed so far.
        store: Where checkpoints go.
        writer: The run directory; None on processes other than the first.
        sample: Draws a strip after the given number of steps; None draws nothing during the run.
        should_stop: Asked at each step boundary; True saves and ends the run.
    """

    accelerator: Accelerator
    student: nn.Module
    method: Method
    optimizer: torch.optim.Optimizer
    learning_rates: LearningRates
    parameters: Mapping[str, nn.Parameter]
    counter: ForwardCounter
    store: CheckpointStore
    writer: RunWriter | None
    sample: Callable[[int], None] | None
    should_stop: Callable[[], bool]


class Trainer:
    """Runs a method's steps, and keeps the run's files true while it does."""

    def __init__(
        self, parts: TrainerParts, *, train: TrainSection, save: SaveSection, sample_every: int
    ) -> None:
        self._parts = parts
        self._train = train
        self._save_every = save.every
        self._sample_every = sample_every
        self._names: dict[Tensor, str] = {
            parameter: name for name, parameter in parts.parameters.items()
        }
        self._memory = _MemoryMeter(parts.accelerator.device)
        self.step = 0

    @property
    def forwards(self) -> int:
        """UNet rows computed so far on this process; a backward counts as one more."""
        return self._parts.counter.rows

    def run(self, until: int | None = None) -> None:
        """Train from the current step to the last one.

        Args:
            until: Return after this many steps of the run; None means all.

        Raises:
            Interrupted: If the run was asked to stop; its checkpoint is saved.
            NumericsError: At the first loss or gradient that is not finite.
        """
        parts, total = self._parts, self._train.steps
        self._report_status("training")
        while self.step < (total if until is None else until):
            begin = time.perf_counter()
            figures = self._one_step()
            self.step += 1
            if parts.writer is not None:
                parts.writer.metric(
                    step=self.step,
                    seconds=round(time.perf_counter() - begin, 6),
                    memory_mib=self._memory.mib(),
                    **figures,
                )
            self._report_status("training")
            is_last = self.step == total
            if parts.should_stop() and not is_last:
                self.save()
                raise Interrupted(
                    f"stopped after step {self.step} of {total}; the state is saved",
                    "Go on with: loba run --resume RUN",
                )
            if self._sample_every and self.step % self._sample_every == 0 and not is_last:
                self._sample()
            if is_last or (self._save_every and self.step % self._save_every == 0):
                self.save()

    def _one_step(self) -> dict[str, float]:
        """Run one optimizer step, and return its figures."""
        parts, train = self._parts, self._train
        rate = parts.learning_rates.set(self.step)
        totals: dict[str, float] = {}
        grad_norm = math.nan
        for micro in range(train.gradient_accumulation):
            with parts.accelerator.accumulate(parts.student):
                index = self.step * train.gradient_accumulation + micro
                output = parts.method.step(index, self.step / train.steps)
                parts.accelerator.backward(output.loss)
                figures = {"loss": output.loss.detach(), **output.metrics}
                for name, value in figures.items():
                    share = float(value) / train.gradient_accumulation
                    totals[name] = totals.get(name, 0.0) + share
                self._require_finite("loss", totals["loss"])
                if parts.accelerator.sync_gradients:
                    grad_norm = float(
                        parts.accelerator.clip_grad_norm_(
                            parts.parameters.values(), train.max_grad_norm or math.inf
                        )
                    )
                    self._require_finite("gradient norm", grad_norm)
                parts.optimizer.step()
                parts.optimizer.zero_grad()
        figures = self._over_processes(totals)
        return {**figures, "lr": rate, "grad_norm": grad_norm}

    def _over_processes(self, totals: Mapping[str, float]) -> dict[str, float]:
        """Return the mean of the figures over all processes, and the sum of their UNet rows."""
        accelerator, rows = self._parts.accelerator, self._parts.counter.rows
        if accelerator.num_processes == 1:
            return {**totals, "forwards": rows}
        local = torch.tensor([*totals.values(), rows], device=accelerator.device)
        *means, mean_rows = accelerator.reduce(local, reduction="mean").tolist()
        forwards = round(mean_rows * accelerator.num_processes)
        return {**dict(zip(totals, means, strict=True)), "forwards": forwards}

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise NumericsError(
                f"the {what} of step {self.step + 1} is {value}; it did not touch the weights",
                "Lower optimizer.lr or the concept's guidance, or use base_model.dtype: float32.",
            )

    def save(self) -> None:
        """Save a checkpoint of the current step."""
        parts = self._parts
        method_state = parts.method.state()  # every process, as it may gather
        if parts.writer is None:
            return
        begin = time.perf_counter()
        tensors, plain = export_state(parts.optimizer, self._names)
        path = parts.store.save(
            Checkpoint(
                step=self.step,
                tensors={
                    "adapter": {
                        name: parameter.detach().cpu()
                        for name, parameter in parts.parameters.items()
                    },
                    "optimizer": tensors,
                    "method": method_state,
                },
                state={"optimizer": plain, "forwards": parts.counter.rows},
            )
        )
        seconds = round(time.perf_counter() - begin, 4)
        parts.writer.event("saved", step=self.step, path=path.name, seconds=seconds)

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The trained parameters by name."""
        return self._parts.parameters

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Lend the weights to draw, measure and export: an optimizer may train at other ones."""
        return averaged_weights(self._parts.optimizer, self._parts.parameters.values())

    def load_newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Go on from the newest checkpoint that verifies.

        Returns:
            The checkpoint, None where none was saved yet, and why newer ones were skipped.

        Raises:
            CorruptError: If there are checkpoints, but none verifies.
        """
        checkpoint, skipped = self._parts.store.load_newest()
        if checkpoint is not None:
            self._restore(checkpoint)
        return checkpoint, skipped

    def _restore(self, checkpoint: Checkpoint) -> None:
        parts = self._parts
        weights = checkpoint.tensors["adapter"]
        with torch.no_grad():
            for name, parameter in parts.parameters.items():
                parameter.copy_(weights[name])
        import_state(
            parts.optimizer,
            self._names,
            checkpoint.tensors["optimizer"],
            checkpoint.state["optimizer"],
        )
        parts.method.load_state(checkpoint.tensors["method"])
        parts.counter.rows = checkpoint.state["forwards"]
        self.step = checkpoint.step

    def _sample(self) -> None:
        if self._parts.sample is not None and self._parts.writer is not None:
            self._report_status("sampling")
            with self.averaged_weights():
                self._parts.sample(self.step)
            self._report_status("training")

    def _report_status(self, phase: str) -> None:
        if self._parts.writer is not None:
            self._parts.writer.status(phase=phase, step=self.step, total=self._train.steps)


class _MemoryMeter:
    """Memory of this process in MiB: torch's peak on an accelerator, the resident set on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()

    def mib(self) -> float:
        if self._device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self._device) / 2**20, 1)
        return round(self._process.memory_info().rss / 2**20, 1)
