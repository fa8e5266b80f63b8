"""Whole runs of the program in this process, and what they record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loba_tui.core.errors import Interrupted
from loba_tui.core.plugins import SHIPPED, Plugins
from loba_tui.core.program import main
from loba_tui.core.program.train import train
from loba_tui.core.recipe.load import dump_recipe, parse_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.start_options import StartOptions
from loba_tui.core.run.writer import RunWriter

SHAPE = {"target": "a shape", "positive": "a large shape", "negative": "a small shape"}


def shape_slider(rollout_steps: int, **sections: Any) -> Recipe:
    """Return a recipe of a slider on the embedded model, on the CPU."""
    method = {"name": "text_slider", "rollout_steps": rollout_steps, "concepts": [SHAPE]}
    base_model = {"id": "builtin:shapes-xl", "device": "cpu"}
    return parse_recipe(
        {"version": 1, "base_model": base_model, "method": method, **sections}, plugins=SHIPPED
    )


def new_run(recipe: Recipe, parent: Path) -> RunDir:
    """Return the folder of a run that has not begun."""
    run_dir = RunDir.create(parent, recipe.name)
    run_dir.recipe.path.write_text(dump_recipe(recipe))
    return run_dir


def run_here(
    recipe: Recipe,
    run_dir: RunDir,
    *,
    resume: bool = False,
    plugins: Plugins = SHIPPED,
    **changes: Any,
) -> RunDir:
    """Run to the end, or go on from the newest checkpoint.

    Args:
        plugins: That the recipe chooses from.
        changes: Settings to change before it goes on, with two underscores for the dot.
    """
    nobody_stops_it = SimpleNamespace(is_set=False)
    changed = tuple((key.replace("__", "."), value) for key, value in changes.items())
    start = StartOptions(resume=resume, changes=changed)
    with RunWriter.open(run_dir) as writer:
        train(recipe, run_dir, writer, nobody_stops_it, start, plugins)
    return run_dir


def stop_after(step: int, recipe: Recipe, run_dir: RunDir, plugins: Plugins = SHIPPED) -> None:
    """Run until a step is done, and stop there as somebody asks who is at the keyboard."""
    flag = SimpleNamespace(is_set=False)

    class Stopping(RunWriter):
        def metric(self, *, step: int, **values: Any) -> None:
            super().metric(step=step, **values)
            flag.is_set = step >= last

    last = step
    with Stopping.open(run_dir) as writer, pytest.raises(Interrupted):
        train(recipe, run_dir, writer, flag, StartOptions(), plugins)


def main_with(flags: Mapping[str, str]) -> int:
    """Return the exit code of the program when it is started with flags."""
    return main.main([word for name, value in flags.items() for word in (f"--{name}", value)])


def events(run_dir: RunDir, kind: str = "") -> list[dict[str, Any]]:
    """Return what a run has told of itself, all of it or of one kind."""
    lines = [json.loads(line) for line in run_dir.events.path.read_text().splitlines()]
    return [line for line in lines if kind in ("", line["event"])]


def adapter_hashes(run_dir: RunDir) -> list[str]:
    """Return the hashes of a run's adapter in both key namings."""
    files = (run_dir.adapter, run_dir.adapter_kohya)
    return [hashlib.sha256(file.path.read_bytes()).hexdigest() for file in files]
