"""The training loop and one step of it; everything it works with arrives finished."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from loba_tui.core.errors import CorruptError, Interrupted, NumericsError
from loba_tui.core.program.kernels.compiling import begin_step
from loba_tui.core.program.method import ForgetsBad
from loba_tui.core.program.training.checkpoint import Checkpoint
from loba_tui.core.program.training.gradient_start import GradientStart
from loba_tui.core.program.training.memory import memory_mib
from loba_tui.core.program.training.optimizer_state import averaged_weights
from loba_tui.core.program.training.state import TrainerParts, checkpoint_of, restore
from loba_tui.core.program.training.step_figures import StepFigures
from loba_tui.core.program.validation.best import RunResult
from loba_tui.core.recipe.schema import TrainSection
from loba_tui.core.run.directory import checkpoint_name


class Trainer:
    """Runs a method's steps, and keeps the run's files true while it does."""

    def __init__(self, parts: TrainerParts, *, train: TrainSection) -> None:
        self._parts = parts
        self._train = train
        self._settings = parts.steering.settings
        self._records = parts.steering.context.records
        self._num_skips = 0
        self._saved_step: int | None = None
        self._allow_inexact = False
        self.step = 0
        self.inexact: list[str] = []
        self.init_from = parts.init_from
        self.steering = parts.steering
        self.scale = parts.scale
        self.parameters = parts.parameters

    @property
    def is_done(self) -> bool:
        """Whether the last step is made, or a check has found that no more are needed."""
        return self.step >= self._settings.steps or self.ended_early is not None

    @property
    def ended_early(self) -> str | None:
        """Why training ended itself before its last step; None where it did not."""
        return self.stop_reason if self.step < self._settings.steps else None

    @property
    def stop_reason(self) -> str | None:
        """Why its checks say that no more steps are needed; None where they do not."""
        early_stop = self._parts.early_stop
        reason = early_stop.reason if early_stop is not None else None
        return reason.message if reason is not None else None

    def run(self, until: int | None = None) -> None:
        """Train from the current step to the last one, or until so many steps are done.

        Raises:
            Interrupted: If the run was asked to stop; its checkpoint is saved.
            NumericsError: At a loss or gradient that is not finite, as `train.on_nan` has it.
        """
        settings = self._settings
        self._report_status("training")
        if self._train.on_nan == "rollback" and not self._parts.store.has_any():
            self.save()
        while not self.is_done and self.step != until:
            self.steering.boundary(self)
            if settings.is_skipped(self.step):
                self.step += 1
            else:
                self._measured_step()
            # A recorded change may give a run more steps that has just made its last one.
            settings.repeat_changes(self.step)
            self._report_status("training")
            is_last = self.is_done
            if is_last or _is_due(self.step, settings.save_every):
                self.save()
            if _is_due(self.step, settings.sample_every) and not is_last:
                self.sample()

    def _measured_step(self) -> None:
        """Run one step and record its figures, or do with a bad one what the recipe says."""
        begin = time.perf_counter()
        try:
            figures = self._one_step()
        except NumericsError as error:
            self._give_up_step(error)
            return
        self.step += 1
        seconds = round(time.perf_counter() - begin, 6)
        figures |= self._check_efficacy() | self._validate()
        figures |= self._keep_best(figures)
        memory = memory_mib(self._parts.engine.accelerator.device)
        self._records.metric(step=self.step, seconds=seconds, memory_mib=memory, **figures)

    def _check_efficacy(self) -> dict[str, float]:
        """Measure what the adapter does where that is due; note it where the run ends by it."""
        early_stop = self._parts.early_stop
        if early_stop is None or not early_stop.is_due(self.step):
            return {}
        self._report_status("validating")
        with self.averaged_weights():
            check = early_stop.check(self.step)
        reason = early_stop.reason
        if reason is not None and self.ended_early:
            self._records.event(
                "ended_early", step=self.step, outcome=reason.outcome, message=reason.message
            )
        return check.metrics() if check is not None else {}

    def _validate(self) -> dict[str, float]:
        """Evaluate the loss on what is held out where that is due, and tell of overfitting."""
        validation = self._parts.validation
        if validation is None or not validation.is_due(self.step, is_last=self.is_done):
            return {}
        self._report_status("validating")
        begin = time.perf_counter()
        with self.averaged_weights():
            found = validation.evaluate(self.step)
        seconds = round(time.perf_counter() - begin, 4)
        self._records.event(
            "validated",
            step=self.step,
            loss=found.loss,
            training_loss=found.training_loss,
            gap=found.gap,
            seconds=seconds,
        )
        if message := validation.overfits():
            self._records.event("overfitting", step=self.step, message=message)
        self._records.status(phase="training", validation_loss=found.sentence())
        return found.metrics()

    def _keep_best(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Keep the adapter where its figure is the best so far; return one that was drawn."""
        best = self._parts.best
        if best is None:
            return {}
        if best.draws(self.step, is_last=self.is_done):  # nobody takes that for a step that hangs
            self._report_status("sampling")
        with self.averaged_weights():
            drawn = best.draw(self.scale, self.step, is_last=self.is_done)
            is_best = best.consider(self.step, {**figures, **drawn}, self.parameters)
        if is_best:
            by = best.section.by
            self._records.event("best", step=self.step, by=by, figure=best.figure)
            self._records.status(best=best.sentence())
        return drawn

    def _one_step(self) -> dict[str, float]:
        """Run one optimizer step, and return its figures; the weights stay where it is bad."""
        parts, train = self._parts, self._train
        rate = parts.learning_rates.set(self.step)
        if train.compile == "graphs":
            begin_step()
        if self.step == 0 and parts.gradient_start is not None:
            self._start_along_gradient(parts.gradient_start)
        collected = self._backward()
        norm = parts.engine.finish_gradients(
            parts.parameters.values(),
            outside=self._trained_in_text(),
            max_norm=train.max_grad_norm or math.inf,
        )
        collected.add({"grad_norm": norm})
        # The one moment of a step at which the host waits: before the weights are touched, so that
        # a bad step can leave them alone.
        figures = collected.read(parts.engine, parts.counter.rows)
        self._require_finite("loss", figures["loss"])
        if parts.engine.accelerator.scaler is None:
            self._require_finite("gradient norm", figures["grad_norm"])
        # A loss scaler looks for the overflow that it provokes itself, and leaves such a step out.
        if parts.engine.step() and parts.average is not None:
            parts.average.step()
        return {**figures, "lr": rate}

    def _start_along_gradient(self, start: GradientStart) -> None:
        """Give the adapter the first weights that this step's gradient asks for.

        The step that follows draws the same latents: a run that goes on from its beginning does
        all of it again.
        """
        parts = self._parts
        before = parts.method.state()
        start(self._shared_backward)
        parts.method.load_state(before)
        parts.optimizer.zero_grad()
        if parts.average is not None:
            parts.average.restart()

    def _shared_backward(self) -> None:
        self._backward()
        parts = self._parts
        parts.engine.share_gradients(parts.parameters.values(), outside=self._trained_in_text())

    def _trained_in_text(self) -> Collection[nn.Parameter]:
        text = self._parts.text
        return text.parameters().values() if text is not None and not text.is_held else ()

    def _backward(self) -> StepFigures:
        """Add up the gradients of a step, and return its figures on this process."""
        parts, num_parts = self._parts, self._train.gradient_accumulation
        collected = StepFigures()
        for micro in range(num_parts):
            with parts.engine.accumulate():
                index = self.step * num_parts + micro
                output = parts.method.step(index, self.step / self._settings.steps)
                parts.engine.backward(output.loss)
                collected.add({"loss": output.loss, **output.metrics}, num_parts)
        return collected

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise NumericsError(
                f"the {what} of step {self.step + 1} is {value}; it did not touch the weights",
                "Lower optimizer.lr or the concept's guidance, or use base_model.dtype: float32.",
            )

    def _give_up_step(self, error: NumericsError) -> None:
        """Skip or roll back a step that gave no finite figures, or raise."""
        parts, train = self._parts, self._train
        if train.on_nan == "stop":
            raise error
        if self._num_skips >= train.max_skips:
            raise NumericsError(
                f"{error.message}; train.max_skips: {train.max_skips} were skipped already",
                error.hint,
            ) from error
        self._num_skips += 1
        parts.optimizer.zero_grad()
        bad_step = self.step
        if train.on_nan == "rollback":
            self._settings.skip(bad_step)
            self.load_newest()
        else:
            if isinstance(parts.method, ForgetsBad):
                parts.method.forget_bad()
            self.step += 1
        self._records.event(
            "skipped",
            step=bad_step,
            back_to=self.step if train.on_nan == "rollback" else None,
            num_skips=self._num_skips,
            message=error.message,
        )

    def save(self) -> None:
        """Save a checkpoint of the current step; wait where the disk has no space for it."""
        parts = self._parts
        if self._saved_step == self.step:
            return
        method_state = parts.method.state()  # every process, as it may gather
        begin = time.perf_counter()
        checkpoint = self._checkpoint(method_state)
        self.steering.disk.persist(
            lambda: parts.store.save(checkpoint), num_bytes=checkpoint.num_bytes, step=self.step
        )
        self._saved_step = self.step
        seconds = round(time.perf_counter() - begin, 4)
        self._records.event(
            "saved", step=self.step, path=checkpoint_name(self.step), seconds=seconds
        )

    def _checkpoint(self, method_state: Mapping[str, Tensor]) -> Checkpoint:
        return checkpoint_of(
            self._parts,
            self.step,
            method_state,
            num_skips=self._num_skips,
            inexact=self.inexact,
            init_from=self.init_from,
        )

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Lend the weights to draw, measure and export, where other ones are trained at."""
        if self._parts.average is not None:
            return self._parts.average.lent()
        return averaged_weights(self._parts.optimizer, self._parts.parameters.values())

    @property
    def result(self) -> RunResult:
        """The adapter of the best step where the recipe asks for it, else that of the last."""
        last = RunResult(self.step, self.averaged_weights, remark=self.ended_early)
        best = self._parts.best
        return last if best is None else best.result(last, self.parameters)

    def load_newest(
        self, *, allow_inexact: bool | None = None
    ) -> tuple[Checkpoint | None, list[str]]:
        """Go on from the newest checkpoint that verifies; `AdapterRun` has it in full."""
        if allow_inexact is not None:
            self._allow_inexact = allow_inexact
        checkpoint, skipped = self._parts.store.load_newest_of(self._parts.engine.processes)
        if checkpoint is not None:
            try:
                self._restore(checkpoint)
            except torch.OutOfMemoryError:
                raise
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise CorruptError(
                    f"the checkpoint of step {checkpoint.step} is not one of this run: {error}",
                    "Start the run anew; its checkpoints are kept.",
                ) from error
        elif self._parts.best is not None:
            self._parts.best.forget()
        return checkpoint, skipped

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.inexact = restore(self._parts, checkpoint, allow_inexact=self._allow_inexact)
        # A rollback must not forget the skips that led to it.
        self._num_skips = max(self._num_skips, checkpoint.state.get("num_skips", 0))
        self.step = self._saved_step = checkpoint.step
        self.init_from = checkpoint.state.get("init_from")

    def sample(self) -> None:
        """Draw a strip of what the adapter does now."""
        self._report_status("sampling")
        try:
            with self.averaged_weights():
                self._parts.strips.draw_between_steps(self.scale, self.step)
        except Interrupted:  # the boundary that comes next stops the run
            self._records.event("sample_failed", step=self.step, message="cut short by the stop")
        self._report_status("training")

    def _report_status(self, phase: str) -> None:
        self._records.status(phase=phase, step=self.step, total=self._settings.steps)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
