"""Answers at a step boundary to the user, a signal or the clock.

The trainer asks here before each step. Commands come as files (`core.run.control`) and are answered
by `command` events. Where several processes train, the first one takes the commands and all of them
carry them out at the same boundary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from loba_tui.core.errors import Interrupted, LobaError, RecipeError
from loba_tui.core.program.steering.context import RunContext
from loba_tui.core.program.steering.disk_wait import DiskWait
from loba_tui.core.program.steering.live_settings import LiveSettings
from loba_tui.core.run.control import MEMORY_KINDS, Command


class Steered(Protocol):
    """The run, as steering sees it at a boundary."""

    step: int

    def save(self) -> None:
        """Save a checkpoint of the current step."""

    def sample(self) -> None:
        """Draw a strip."""


@dataclass
class Steering:
    """Carries out what is asked of a run, which is not paused at first, between two of its steps.

    Attributes:
        move: Unloads, offloads and onloads components; returns what the answer says of it.
    """

    context: RunContext
    settings: LiveSettings
    disk: DiskWait
    move: Callable[[Command], dict[str, Any]]
    _paused: bool = field(default=False, init=False)
    _at: float | None = field(default=None, init=False)

    def boundary(self, run: Steered) -> None:
        """Carry out what is asked for before the next step; return when that step may run.

        Raises:
            Interrupted: The run is to stop; its checkpoint is saved.
        """
        if self._at is not None:
            self.context.stop.step_seconds = time.monotonic() - self._at
        self.settings.repeat_changes(run.step)
        while True:
            if self._carry_out(run):
                run.save()
                raise Interrupted(
                    f"stopped after step {run.step} of {self.settings.steps}; the state is saved",
                    "Go on with: loba run --resume RUN",
                )
            if not self._paused:
                break
            time.sleep(self.context.poll_seconds)
        self._at = time.monotonic()

    def _carry_out(self, run: Steered) -> bool:
        """Carry out all waiting commands; return whether the run is to stop."""
        processes = self.context.processes
        commands = self.context.take_commands()
        is_to_stop, are_commands = processes.any(self.context.stop.is_set, bool(commands))
        if are_commands:
            for command in processes.share(commands):
                is_to_stop = self._obey(command, run) or is_to_stop
        return is_to_stop

    def _obey(self, command: Command, run: Steered) -> bool:
        """Carry out one command and answer it; return whether the run is to stop."""
        records = self.context.records
        answer: dict[str, Any] = {"id": command.id, "command": command.kind, "step": run.step}
        try:
            if command.kind == "set":
                key, value = str(command.args.get("key")), command.args.get("value")
                change = self.settings.change(key, value, run.step)
                answer |= {"key": key, "old": change.old, "new": change.new}
            elif command.kind in ("pause", "resume"):
                self._pause(command.kind == "pause", run.step)
            elif command.kind == "save":
                run.save()
            elif command.kind == "sample":
                run.sample()
            elif command.kind in MEMORY_KINDS:
                answer |= self._moved(command)
        except RecipeError as error:
            records.event(
                "command", **answer, accepted=False, message=error.message, hint=error.hint
            )
        else:
            records.event("command", **answer, accepted=True)
        if self._paused:
            records.status(phase="paused")
        return command.kind == "stop"

    def _moved(self, command: Command) -> dict[str, Any]:
        """Have a component moved; what fails there is an answer and never ends the run."""
        try:
            return self.move(command)
        except LobaError as error:
            raise RecipeError(error.message, error.hint) from error

    def _pause(self, wanted: bool, step: int) -> None:
        if wanted == self._paused:
            raise RecipeError("the run is paused already" if wanted else "the run is not paused")
        self._paused = wanted
        self.context.records.event("paused" if wanted else "continued", step=step)
        self.context.records.status(phase="paused" if wanted else "training")
