"""Make the folder of a new run, and the arguments that a run is started with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from loba_tui.client.notify import watcher
from loba_tui.client.runs import steer
from loba_tui.client.runs.resolve import UNSAFE_SUFFIXES, find_run, resolve_adapter
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.load import dump_recipe, read_recipe_text
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run import owner
from loba_tui.core.run.deadline import Deadline
from loba_tui.core.run.directory import Ledger, RunDir, checkpoint_names, checkpoint_step
from loba_tui.core.run.queue import Queue
from loba_tui.core.text import clean


def make_run(recipe: Recipe, out_dir: Path, ledger: Ledger, *, label: str = "") -> RunDir:
    """Make the folder of a run below `out_dir`, register it, and write its resolved recipe.

    Args:
        label: Goes into the folder's name where several runs have one recipe's name.
    """
    name = f"{recipe.name}-{label}" if label else recipe.name
    run_dir = RunDir.create(out_dir, name, ledger=ledger)
    run_dir.recipe.replace(dump_recipe(recipe).encode(), sync=True)
    return run_dir


def with_named_run(recipe: Recipe, file: Path, ledger: Ledger) -> Recipe:
    """Return the user's own recipe; `adapter.init_from` of a run's name becomes its adapter file.

    Paths come first: a name is what stands alone, and is neither a file nor a folder there.

    Args:
        file: The recipe's, beside which the paths in it lie.

    Raises:
        LobaError: There is no such run, or it has no adapter yet.
    """
    if recipe.adapter.init_from is None:
        return recipe
    given = Path(recipe.adapter.init_from)
    stands_alone = given.parent in (file.absolute().parent, Path.cwd())
    is_file = given.suffix.lower() in (".safetensors", *UNSAFE_SUFFIXES)
    if given.exists() or is_file or not stands_alone:
        return recipe
    try:
        found, _ = resolve_adapter(find_run(given.name, ledger).path)
    except RecipeError as error:
        raise RecipeError(
            f"adapter.init_from: there is no {clean(given)}. {error.message}", error.hint
        ) from error
    adapter = recipe.adapter.model_copy(update={"init_from": str(found)})
    return recipe.model_copy(update={"adapter": adapter})


def extra_arguments(resume: bool, deadline: str | None) -> list[str]:
    """Return the program's arguments; a deadline that cannot be met is refused at once."""
    extra = ["--resume"] if resume else []
    if deadline is not None:
        Deadline.parse(deadline)
        extra += ["--deadline", deadline]
    return extra


def refuse_with_resume(recipe: Path | None) -> None:
    """Raise RecipeError where `--resume` comes with a recipe, which only a new run can take."""
    if recipe is not None:
        raise RecipeError(
            "--resume goes on with the run's own recipe.yaml, so a recipe cannot be given with it.",
            "Start a new run instead, or leave it out.",
        )


def change_arguments(run_dir: RunDir, overrides: Sequence[str], plugins: Plugins) -> list[str]:
    """Return the program's arguments for what is changed of a run before it goes on.

    Raises:
        RecipeError: Something cannot be changed of a run that has begun, or not to this value.
    """
    arguments: list[str] = []
    for override in overrides:
        change = steer.set_command(run_dir, override, plugins).args
        key, value = change["key"], change["value"]
        done = max(map(checkpoint_step, checkpoint_names(run_dir.checkpoints)), default=0)
        if key == "train.steps" and value <= done:
            raise RecipeError(
                f"train.steps: {done} steps are done already, so {value} cannot be the last.",
                "Give it more steps than that, counted from the run's first.",
            )
        arguments += ["--set", f"{key}={json.dumps(value)}"]
    return arguments


def enqueue(
    run_dir: RunDir,
    argv_extra: Sequence[str],
    *,
    environ: Mapping[str, str],
    program: Sequence[str],
) -> None:
    """Put a run into the queue, and see to it that somebody minds the queue."""
    if run_dir.lock.is_locked(shared=True):
        raise owner.in_use(run_dir.lock)
    device = re.search(r"^ +device: (\S+)$", read_recipe_text(run_dir.recipe), re.MULTILINE)
    watcher.ensure(environ)
    queue = Queue.of_user(environ)
    queue.add(
        run_dir,
        argv_extra=argv_extra,
        device=device.group(1) if device else "auto",
        environ=environ,
    )
    queue.start_supervisor(program=program)
