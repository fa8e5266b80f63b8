"""What happens at a step boundary because the user, a signal, the clock or the disk asks for it.

The trainer asks here before each step. Commands come as files (`core.run.control`) and are answered
by `command` events; what they change is recorded, so that a resumed or replayed run changes the
same settings at the same steps. Where several processes train, the first one takes the commands and
all of them carry them out at the same boundary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from loba_tui.core.errors import Interrupted, LobaError, RecipeError, ResourceError
from loba_tui.core.files import write_atomically
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.processes import Processes
from loba_tui.core.recipe.load import recipe_with
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run import control, disk
from loba_tui.core.run.changes import Change, ChangeRecord
from loba_tui.core.run.control import LIVE_KEYS, MEMORY_KINDS, Command
from loba_tui.core.run.deadline import Deadline
from loba_tui.core.run.writer import RunWriter

# A deadline is met with this much to spare, beside what a step and a save have taken.
_SPARE_SECONDS = 5.0


class Subject(Protocol):
    """The trainer, as steering sees it."""

    step: int

    def save(self) -> None:
        """Save a checkpoint of the current step."""

    def sample(self) -> None:
        """Draw a strip."""


@runtime_checkable
class KeepsPreserve(Protocol):
    """A method whose preserve term can be weighted anew while it runs."""

    def change_preserve_weight(self, weight: float) -> None:
        """Take another weight from the next step on."""


class Steering:
    """The settings that can change while a run goes on, and whoever changes them."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        writer: RunWriter | None = None,
        processes: Processes | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        deadline: Deadline | None = None,
        plugins: Plugins,
        poll_seconds: float = 0.25,
        disk_poll_seconds: float = 5.0,
    ) -> None:
        self._recipe = recipe
        self._writer = writer
        self._processes = processes or Processes()
        self._should_stop = should_stop
        self._deadline = deadline
        self._plugins = plugins
        self._poll_seconds = poll_seconds
        self._disk_poll_seconds = disk_poll_seconds
        self._setters: dict[str, Callable[[Any], None]] = {}
        self._obey_memory: Callable[[Command], dict[str, Any]] | None = None
        self._initial = self._values_of(recipe)
        self._values = dict(self._initial)
        self._applied_until = -1
        self._paused = False
        self._at: float | None = None
        self._step_seconds = 0.0
        self._save_seconds = 0.0
        self.record = ChangeRecord()

    def _values_of(self, recipe: Recipe) -> dict[str, Any]:
        described = self._plugins.describe("methods", recipe.method.name)
        if described.constants.get("SOLVES"):
            return {}  # it is over before anything could be changed
        values: dict[str, Any] = {
            "optimizer.lr": recipe.optimizer.lr,
            "train.steps": recipe.train.steps,
            "sample.every": recipe.sample.every,
            "save.every": recipe.save.every,
        }
        option = described.options.get("preserve_weight")
        if option is not None:
            given = recipe.method.options
            values["method.preserve_weight"] = given.get("preserve_weight", option.default)
        return values

    @property
    def steps(self) -> int:
        """The step after which the run is done."""
        return int(self._values.get("train.steps", 1))

    @property
    def save_every(self) -> int:
        """Steps between checkpoints; 0 saves at the end only."""
        return int(self._values["save.every"])

    @property
    def sample_every(self) -> int:
        """Steps between strips; 0 draws the last one only."""
        return int(self._values["sample.every"])

    def bind(self, key: str, setter: Callable[[Any], None]) -> None:
        """Say how a change of one of LIVE_KEYS reaches what it is about."""
        if key in self._values:
            self._setters[key] = setter

    def bind_memory(self, obey: Callable[[Command], dict[str, Any]]) -> None:
        """Say who unloads, offloads and onloads components."""
        self._obey_memory = obey

    def load(self, record: ChangeRecord, step: int) -> None:
        """Take a record over and set everything as it was when `step` steps were done.

        Changes of later steps are made again when those steps are reached.
        """
        self.record = record
        self._values = dict(self._initial)
        for change in record.changes:
            if change.step <= step:
                self._values[change.key] = change.new
        self._applied_until = step
        for key, setter in self._setters.items():
            setter(self._values[key])

    def boundary(self, subject: Subject) -> None:
        """Carry out what is asked for before the next step; return when that step may run.

        Raises:
            Interrupted: The run is to stop; its checkpoint is saved.
        """
        self._measure_step()
        self._repeat_changes(subject.step)
        while True:
            if self._carry_out(subject):
                subject.save()
                raise Interrupted(
                    f"stopped after step {subject.step} of {self.steps}; the state is saved",
                    "Go on with: loba run --resume RUN",
                )
            if not self._paused:
                break
            time.sleep(self._poll_seconds)
        self._at = time.monotonic()

    def is_to_stop(self) -> bool:
        """Say whether this process has been asked to stop, or runs out of time."""
        return self._should_stop() or self._is_late()

    def _is_late(self) -> bool:
        if self._deadline is None:
            return False
        margin = _SPARE_SECONDS + 2 * self._step_seconds + 3 * self._save_seconds
        return self._deadline.seconds_left() < margin

    def _measure_step(self) -> None:
        if self._at is not None:
            self._step_seconds = time.monotonic() - self._at

    def _carry_out(self, subject: Subject) -> bool:
        """Carry out all waiting commands; return whether the run is to stop."""
        commands = self._take()
        is_to_stop, are_commands = self._processes.any(self.is_to_stop(), bool(commands))
        if are_commands:
            for command in self._processes.share(commands):
                is_to_stop = self._obey(command, subject) or is_to_stop
        return is_to_stop

    def _take(self) -> list[Command]:
        if self._writer is None:
            return []
        return control.take(
            self._writer.run_dir,
            on_refused=lambda name, reason: self._event(
                "command", id=name.removesuffix(".json"), accepted=False, message=reason
            ),
        )

    def _obey(self, command: Command, subject: Subject) -> bool:
        """Carry out one command and answer it; return whether the run is to stop."""
        answer: dict[str, Any] = {"id": command.id, "command": command.kind, "step": subject.step}
        try:
            if command.kind == "set":
                answer |= self._set(command, subject.step)
            elif command.kind in ("pause", "resume"):
                self._pause(command.kind == "pause", subject.step)
            elif command.kind == "save":
                subject.save()
            elif command.kind == "sample":
                subject.sample()
            elif command.kind in MEMORY_KINDS:
                answer |= self._move(command)
        except RecipeError as error:
            self._event("command", **answer, accepted=False, message=error.message, hint=error.hint)
        else:
            self._event("command", **answer, accepted=True)
        if self._paused:
            self._phase("paused")
        return command.kind == "stop"

    def _move(self, command: Command) -> dict[str, Any]:
        """Have a component moved; what fails there is an answer and never ends the run."""
        if self._obey_memory is None:
            raise RecipeError("this run cannot move components")
        try:
            return self._obey_memory(command)
        except LobaError as error:
            raise RecipeError(error.message, error.hint) from error

    def _pause(self, wanted: bool, step: int) -> None:
        if wanted == self._paused:
            raise RecipeError("the run is paused already" if wanted else "the run is not paused")
        self._paused = wanted
        self._event("paused" if wanted else "continued", step=step)
        self._phase("paused" if wanted else "training")

    def _set(self, command: Command, step: int) -> dict[str, Any]:
        """Change a setting; return what the answer says of it."""
        key, value = str(command.args.get("key")), command.args.get("value")
        new = self._checked(key, value, step)
        change = Change(step, key, self._values[key], new)
        self.record = self.record.with_change(change)
        self._apply(change)
        self._keep_record()
        return {"key": key, "old": change.old, "new": change.new}

    def _checked(self, key: str, value: object, step: int) -> Any:
        """Return a value as the recipe's own schema reads it; raise RecipeError otherwise."""
        if key not in LIVE_KEYS:
            raise RecipeError(
                f"{key} cannot be changed while a run goes on",
                f"What can be: {', '.join(LIVE_KEYS)}.",
            )
        is_kept_here = key in ("sample.every", "save.every", "train.steps")
        if key not in self._values or not (is_kept_here or key in self._setters):
            raise RecipeError(f"{key}: {self._recipe.method.name} cannot change it as it runs")
        try:
            recipe = recipe_with(self._recipe, key, value, plugins=self._plugins)
        except ProblemsFound as error:
            told = "; ".join(f"{each.key}: {each.message}" for each in error.problems)
            raise RecipeError(told) from error
        new = self._values_of(recipe)[key]
        if key == "train.steps" and new <= step:
            raise RecipeError(
                f"train.steps: {step} steps are done already, so {new} cannot be the last",
                "`loba runs stop` ends the run here.",
            )
        return new

    def _apply(self, change: Change) -> None:
        self._values[change.key] = change.new
        if change.key in self._setters:
            self._setters[change.key](change.new)
        self._event("steered", step=change.step, key=change.key, old=change.old, new=change.new)

    def _repeat_changes(self, step: int) -> None:
        """Make the recorded changes of this step that were not made yet."""
        if step > self._applied_until:
            for change in self.record.changes:
                if self._applied_until < change.step <= step:
                    self._apply(change)
            self._applied_until = step

    def is_skipped(self, step: int) -> bool:
        """Say whether a rollback has found the draw of this step to be of no use."""
        return step in self.record.skipped

    def pass_over(self, step: int) -> None:
        """Leave the draw of a step out from now on, in a replay too."""
        self.record = self.record.with_skipped(step)
        self._keep_record()

    def _keep_record(self) -> None:
        if self._writer is None:
            return
        try:
            write_atomically(
                self._writer.run_dir.changes, self.record.text().encode() + b"\n", sync=True
            )
        except ResourceError as error:
            # The next checkpoint carries the record too.
            self._event("warning", message=str(error))

    def persist(
        self, write: Callable[[], object], *, num_bytes: int, step: int, is_alone: bool = False
    ) -> None:
        """Write something to the run's disk; where it has no room, wait until it has.

        Args:
            write: Called on the first process; called again after a failure of the disk.
            num_bytes: How much it will write.
            step: For the events.
            is_alone: The other processes do not call this.

        Raises:
            Interrupted: The run was asked to stop while it waited.
            LobaError: The writing failed for another reason.
        """
        processes = Processes() if is_alone else self._processes
        begin = time.monotonic()
        is_waiting = False
        phase = self._writer.phase if self._writer is not None else ""
        while (lack := processes.share(self._try(write, num_bytes))) is not None:
            if not is_waiting:
                self._event("paused_disk", step=step, message=lack)
            is_waiting = True
            self._phase("paused_disk", disk=lack)
            self._wait_for_disk(processes, step)
            begin = time.monotonic()
        self._save_seconds = time.monotonic() - begin
        if is_waiting:
            self._event("continued", step=step)
            self._phase(phase, disk=None)

    def _try(self, write: Callable[[], object], num_bytes: int) -> str | None:
        """Write on the first process; return what the disk lacks, None where all is well."""
        if self._writer is None:
            return None
        folder = self._writer.run_dir.path
        try:
            room = disk.room_for(folder, num_bytes)
            if not room.is_enough:
                return f"{room} on the disk of {folder}"
            write()
        except (OSError, LobaError) as error:
            trouble = disk.trouble_of(error)
            if trouble is None:
                raise
            return f"{folder}: {trouble.strerror}"
        return None

    def _wait_for_disk(self, processes: Processes, step: int) -> None:
        for _ in range(max(1, round(self._disk_poll_seconds / self._poll_seconds))):
            is_stopped = any(command.kind == "stop" for command in self._take_stops())
            if processes.any(self.is_to_stop() or is_stopped, False)[0]:
                raise Interrupted(
                    f"stopped at step {step}, which could not be saved: the disk has no room",
                    "Free some, and go on from the last checkpoint: loba run --resume RUN",
                )
            time.sleep(self._poll_seconds)

    def _take_stops(self) -> Sequence[Command]:
        """Return the commands that came while the disk is full; all but `stop` are refused."""
        commands = self._take()
        for command in commands:
            is_stop = command.kind == "stop"
            message = {} if is_stop else {"message": "the run waits for the disk; free some space"}
            self._event("command", id=command.id, command=command.kind, accepted=is_stop, **message)
        return commands

    def _event(self, kind: str, **data: Any) -> None:
        if self._writer is not None:
            self._writer.event(kind, **data)

    def _phase(self, phase: str, **extra: Any) -> None:
        if self._writer is not None:
            self._writer.status(phase=phase, **extra)
