"""Steering of a run that nobody asks to stop, unless a test has it so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.steering.boundary import Steering
from loba_tui.core.program.steering.context import RunContext
from loba_tui.core.program.steering.disk_wait import DiskWait
from loba_tui.core.program.steering.live_settings import LiveSettings
from loba_tui.core.program.steering.stop import Flag, StopRequest
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.control import Command
from loba_tui.core.run.deadline import Deadline
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import Records

NEVER = SimpleNamespace(is_set=False)


def steering_of(
    recipe: Recipe,
    run_dir: RunDir,
    records: Records,
    *,
    flag: Flag = NEVER,
    deadline: Deadline | None = None,
    poll_seconds: float = 0.01,
) -> Steering:
    """Return the steering of one process that has no components to move."""
    stop = StopRequest(flag, deadline)
    context = RunContext(run_dir, records, Processes(), stop, SHIPPED, poll_seconds)
    settings = LiveSettings(recipe, context)
    return Steering(context, settings, DiskWait(context, poll_seconds=2 * poll_seconds), no_move)


def no_move(command: Command) -> dict[str, Any]:
    raise AssertionError(command)
