"""Starting a recipe from a screen: what it comes to, a yes, and the run."""

from __future__ import annotations

from pathlib import Path

from loba_tui.client.context import Context
from loba_tui.client.recipes.open import find_recipe
from loba_tui.core.run import launch
from loba_tui.core.run.directory import RunDir
from loba_tui.screens.base import LobaScreen
from loba_tui.widgets.dialogs import ConfirmDialog
from loba_tui.widgets.line import Piece


async def start_recipe(screen: LobaScreen, path: Path) -> RunDir | None:
    """Show what starting a file or a shipped recipe's name comes to, and start it after a yes."""
    rows = await screen.in_thread(_plan_rows, path, screen.context)
    if not await screen.ask(ConfirmDialog(f"Start {path.name}?", rows, "start")):
        return None
    return await screen.in_thread(_start, path, screen.context)


async def start_and_watch(screen: LobaScreen, path: Path) -> None:
    """Start a recipe after a yes, and show its run in the monitor."""
    run = await start_recipe(screen, path)
    if run is not None:
        screen.loba.watch_run(run)


def _plan_rows(path: Path, context: Context) -> list[list[Piece]]:
    """Return what starting a recipe comes to.

    Raises:
        RecipeError: It cannot be used as it is.
    """
    from loba_tui.core.recipe.load import load_recipe

    found = find_recipe(path)
    recipe = load_recipe(found, [], plugins=context.plugins)
    return [
        ["recipe      ", str(found)],
        ["base model  ", recipe.base_model.id],
        ["method      ", recipe.method.name],
        ["steps       ", f"{recipe.train.steps}, batch size {recipe.train.batch_size}"],
        ["device      ", recipe.base_model.device],
        ["folder      ", str(context.out_dir.absolute() / recipe.name) + "-…"],
        [""],
        ["It runs by itself: leaving the dashboard does not end it."],
        [""],
        [(f"the same as: loba run {found.name} --detach --out-dir {context.out_dir}", "dim")],
    ]


def _start(path: Path, context: Context) -> RunDir:
    """Start a recipe as a run of its own.

    Raises:
        LobaError: The recipe, the folder or the program cannot be used.
    """
    from loba_tui.client.runs.start import make_run, with_named_run
    from loba_tui.core.recipe.load import load_recipe

    file = find_recipe(path)
    recipe = load_recipe(file, [], plugins=context.plugins)
    recipe = with_named_run(recipe, file, context.ledger)
    run = make_run(recipe, context.out_dir, context.ledger)
    launch.launch(run, program=context.program)
    return run
