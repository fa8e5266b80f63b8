"""Say in a run's folder how many processes train it, and on which hosts."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from loba_tui.client.launching.printed import Tool, printed_launch
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir, checkpoint_names
from loba_tui.core.run.launching.shape import (
    DEFAULT_RESTARTS,
    THIS_MACHINE,
    LaunchShape,
    make_shape,
)
from loba_tui.core.run.reader import RunReader


@dataclass(frozen=True)
class Wanted:
    """A command's options about the processes of a run; None for one that was not given."""

    processes: int | None = None
    hosts: str | None = None
    iface: str | None = None
    port: int | None = None
    restarts: int | None = None
    remote_python: str | None = None


def shape_of(wanted: Wanted, recipe: Recipe) -> LaunchShape | None:
    """Return the shape that a new run is to have; None for a single process of this machine.

    Raises:
        RecipeError: The options cannot be used together, or not with this recipe.
    """
    shape = make_shape(
        processes=wanted.processes,
        hosts=wanted.hosts,
        iface=wanted.iface,
        port=wanted.port,
        restarts=DEFAULT_RESTARTS if wanted.restarts is None else wanted.restarts,
        remote_python=wanted.remote_python,
        local_names=(THIS_MACHINE, "127.0.0.1", socket.gethostname()),
    )
    if shape.processes == 1:
        if given := next(iter(_ways(wanted)), None):
            raise RecipeError(
                f"--{given.replace('_', '-')} is for a run of several processes.",
                "Give --processes or --hosts with it.",
            )
        return None
    _require_fit(shape, recipe)
    return replace(shape, timeout=recipe.parallel.timeout)


def _ways(wanted: Wanted) -> dict[str, Any]:
    """Return the options that were given about how processes are started, by name."""
    names = ("iface", "port", "restarts", "remote_python")
    return {name: value for name in names if (value := getattr(wanted, name)) is not None}


def change_shape(run_dir: RunDir, wanted: Wanted, plugins: Plugins, *, inexact: bool) -> None:
    """Take up for a run that goes on what the options say; without any it stays as it was.

    Args:
        inexact: Let it go on with another number of processes.

    Raises:
        RecipeError: It would have another number of processes.
    """
    is_moved = wanted.processes is not None or wanted.hosts is not None
    changes = _ways(wanted)
    before = LaunchShape.read(run_dir)
    if not is_moved:
        if changes and before is None:
            raise RecipeError(
                f"--{next(iter(changes)).replace('_', '-')} is for a run of several processes,"
                " and this one has one.",
            )
        if changes and before is not None:
            replace(before, **changes).write(run_dir)
        return
    recipe = load_recipe(run_dir.recipe, plugins=plugins)
    shape = shape_of(wanted, recipe)
    processes = 1 if shape is None else shape.processes
    had = _num_processes(run_dir, before)
    if had not in (None, processes):
        _require_same_batch(recipe, had or 0, processes, inexact=inexact)
    if shape is None:
        if before is not None:
            run_dir.launch.remove()
        return
    shape.write(run_dir)


def _num_processes(run_dir: RunDir, shape: LaunchShape | None) -> int | None:
    """Return how many processes a run has been trained by; None where nothing is saved of it yet.

    That is on record for a run that another launcher has started, too.
    """
    if not checkpoint_names(run_dir.checkpoints):
        return None if shape is None else shape.processes
    told = [each.data.get("num_processes") for each in RunReader(run_dir).new_events()]
    found = [each for each in told if isinstance(each, int)]
    return found[-1] if found else None


def _require_same_batch(recipe: Recipe, had: int, processes: int, *, inexact: bool) -> None:
    """Refuse other processes as the program would, before anything of the run is changed."""
    message = f"This run has {had} processes, and would go on with {processes}."
    if recipe.train.global_batch_size is None:
        raise RecipeError(
            f"{message} Each step would learn from another number of samples.",
            f"--processes {had} goes on exactly; others need train.global_batch_size.",
        )
    if not inexact:
        raise RecipeError(
            message,
            f"--processes {had} goes on exactly; --allow-inexact goes on with others.",
        )


def launch_text(tool: Tool, run_dir: RunDir, extra: Sequence[str], plugins: Plugins) -> str:
    """Return what starts the run of a folder by another tool.

    Raises:
        LobaError: The tool cannot start its shape.
    """
    recipe = load_recipe(run_dir.recipe, plugins=plugins)
    return printed_launch(tool, run_dir, LaunchShape.read(run_dir), recipe, extra)


def _require_fit(shape: LaunchShape, recipe: Recipe) -> None:
    """Raise RecipeError where the recipe cannot be shared by so many processes."""
    group = recipe.parallel.sequence_size
    if shape.processes % group:
        raise RecipeError(
            f"parallel: ulysses × ring is {group}, which does not divide {shape.processes}"
            " processes.",
            f"Take a multiple of {group} processes.",
        )
    whole, num_data = recipe.train.global_batch_size, shape.processes // group
    if whole is not None and whole % num_data:
        raise RecipeError(
            f"train.global_batch_size is {whole}, which {num_data} processes cannot share evenly.",
            "Take another number of processes, or another batch.",
        )
