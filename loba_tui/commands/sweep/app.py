"""`loba sweep`: one recipe with many values, on many devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loba_tui.commands.options import (
    Recipe,
    echo_json,
    echo_lines,
    echo_result,
    echo_text,
    grouped,
    say,
    user_ledger,
    user_plugins,
)
from loba_tui.commands.sweep.options import How, Scheduler, What, Where
from loba_tui.core.errors import Interrupted, RecipeError, RefusedError
from loba_tui.core.text import clean

if TYPE_CHECKING:
    from loba_tui.client.sweeps.folder import Sweep
    from loba_tui.client.sweeps.results import Result
    from loba_tui.client.sweeps.running import QueuedSweep
    from loba_tui.client.sweeps.variants import Variant


@grouped
def sweep(
    recipe: Recipe = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="SWEEP", help="Go on with the runs that are not finished."),
    ] = None,
    what: What = What(),  # noqa: B008  frozen
    where: Where = Where(),  # noqa: B008  frozen
    how: How = How(),  # noqa: B008  frozen
) -> None:
    """Train a recipe once for each combination of values, and show the runs best first.

    All variants are checked before the first one starts. The runs wait in the queue for their
    slots: Ctrl-C ends the table, not the sweep; `loba sweeps stop` ends the sweep.

    Example: loba sweep slider --vary optimizer.lr=5e-4,1e-3 --vary adapter.rank=2,4 --slots 0,1
    """
    from loba_tui.client.sweeps import variants as varying

    if resume is not None:
        _refuse_with_resume(recipe, what, how)
        _go(_again(resume, where), where, how)
        return
    path = _own_recipe(recipe)
    rows = varying.combine(varying.parse_vary(what.vary or []), zipped=what.zipped)
    varying.require_meant(len(rows), yes=how.yes or how.dry_run)
    variants = varying.load_variants(path, rows, what.overrides or [], plugins=user_plugins())
    slots = _slots(where, variants)
    if how.dry_run:
        _show_plan(variants, slots, how)
        return
    _show_plan(variants, slots, how, err=True)
    _go(_make(path, variants, slots, where, how), where, how)


def _own_recipe(recipe: Path | None) -> Path:
    """Return the recipe's file; one of a hub is asked about for one run, not for many."""
    from loba_tui.client.recipes.open import is_address
    from loba_tui.commands.open_recipe import open_recipe

    if is_address(recipe):
        raise RefusedError(
            f"{clean(recipe, limit=200)} is a recipe from elsewhere; a sweep takes your own.",
            "Train it once with `loba run`, and take the recipe.yaml of that run.",
        )
    return open_recipe(recipe).path


def _refuse_with_resume(recipe: Path | None, what: What, how: How) -> None:
    if recipe is not None or what.vary or what.overrides or what.zipped or how.name:
        raise RecipeError(
            "--resume goes on with the sweep's own runs: no recipe, --vary, --zip, --set or --name "
            "can be given with it.",
            "Start a new sweep for other values.",
        )


def _slots(where: Where, variants: Sequence[Variant]) -> tuple[str, ...]:
    """Return where the runs may go; those of a printed script have their place from elsewhere."""
    from loba_tui.client.sweeps import slots as places

    if where.printed is not None:
        if where.slots is not None or where.engine != "queue":
            raise RecipeError(
                "--print goes with neither --slots nor --engine: the scheduler has the devices."
            )
        return ()
    if where.slots is None:
        raise RecipeError(
            "A sweep needs to know its devices.", "Say --slots 0,1 for two GPUs, or --slots cpu."
        )
    found = places.parse_slots(where.slots)
    if where.engine == "queue":
        recipes = [variant.recipe for variant in variants]
        places.require_devices(found, recipes, places.count_gpus())
    return found


def _show_plan(
    variants: Sequence[Variant], slots: Sequence[str], how: How, *, err: bool = False
) -> None:
    from loba_tui.client.sweeps.table import plan_lines

    if how.as_json and not err:
        runs = [dict(variant.values) for variant in variants]
        echo_json({"runs": runs, "slots": list(slots)})
        return
    echo_lines(plan_lines(variants, slots), err=err)


def _make(
    path: Path, variants: Sequence[Variant], slots: tuple[str, ...], where: Where, how: How
) -> Sweep:
    """Make the folders of a sweep and its runs."""
    from loba_tui.client.sweeps import variants as varying
    from loba_tui.client.sweeps.folder import Settings, make_sweep
    from loba_tui.client.sweeps.slots import with_threads

    name = how.name or f"{variants[0].recipe.name}-sweep"
    varying.check_name(name)
    if where.engine == "ray":
        from loba_tui.client.sweeps.ray_tasks import require_ray

        require_ray()
    threads = with_threads(slots, os.environ)
    settings = Settings(
        recipe=str(path.absolute()),
        engine=where.printed or where.engine,
        slots=slots,
        retries=where.retries,
        environ={k: v for k, v in threads.items() if os.environ.get(k) != v},
    )
    ledger = user_ledger()
    made = varying.with_named_runs(variants, path, ledger)
    return make_sweep(made, settings, how.out_dir, name, ledger)


def _again(name: str, where: Where) -> Sweep:
    """Return a sweep that goes on; new slots, engine and retries hold from now on."""
    from dataclasses import replace

    from loba_tui.client.sweeps import slots as places
    from loba_tui.client.sweeps.folder import find_sweep
    from loba_tui.core.recipe.load import load_recipe

    found = find_sweep(name, user_ledger())
    settings = replace(found.settings, retries=where.retries)
    if where.slots is not None:
        slots = places.parse_slots(where.slots)
        settings = replace(settings, slots=slots, engine=where.engine)
    if where.printed is not None:
        settings = replace(settings, engine=where.printed)
    elif not settings.slots:
        raise RecipeError(
            f"{found.name} was printed for {settings.engine}: this machine has no slots of it.",
            "Say --slots to run the rest here, or --print to print it again.",
        )
    elif settings.engine == "queue":
        plugins = user_plugins()
        recipes = [
            load_recipe(each.run.recipe, plugins=plugins)
            for each in found.runs
            if each.run.recipe.is_there()
        ]
        places.require_devices(settings.slots, recipes, places.count_gpus())
    again = replace(found, settings=settings)
    again.write()
    return again


def _go(made: Sweep, where: Where, how: How) -> None:
    """Start what is to be run, and stay with it; or print how somebody else starts it."""
    from loba_tui.client.runs.events import shorten
    from loba_tui.client.sweeps.ray_tasks import run_with_ray
    from loba_tui.client.sweeps.running import QueuedSweep, conclude
    from loba_tui.commands.live_line import foreground
    from loba_tui.core.run.queue import Queue

    say(f"sweep folder {shorten(made.path)}", err=True)
    if where.printed is not None:
        _print(made, where.printed)
        return
    program = foreground().program
    if made.settings.engine == "ray":
        try:
            with _live_table() as show:
                run_with_ray(made, program=program, environ=os.environ, show=show)
        finally:
            results = conclude(made)
    else:
        queued = QueuedSweep(made, Queue.of_user(os.environ), os.environ, program)
        queued.start()
        if how.detach:
            say(made.path)
            return
        _follow(queued)
        results = conclude(made)
    _tell(made, results, how)


def _follow(queued: QueuedSweep) -> None:
    """Show the table until the sweep is over; Ctrl-C leaves the sweep going."""
    try:
        with _live_table() as show:
            queued.follow(show)
    except KeyboardInterrupt:
        name = queued.sweep.name
        raise Interrupted(
            f"The sweep goes on without this table. Stop it with: loba sweeps stop {name}",
            f"See it again with: loba sweep --resume {name}",
        ) from None


@contextmanager
def _live_table() -> Iterator[Callable[[Sequence[Result]], None]]:
    """Lend what shows the runs while they go on."""
    from loba_tui.commands.sweep.live_table import open_table

    table = open_table(os.environ)
    try:
        yield table.show
    finally:
        table.close()


def _print(made: Sweep, scheduler: Scheduler) -> None:
    from loba_tui.client.sweeps.printed import FILE_NAMES, script
    from loba_tui.core.recipe.load import load_recipe
    from loba_tui.core.run.reader import RunReader

    runs = [
        each
        for each in made.runs
        if each.run.recipe.is_there() and RunReader(each.run).liveness().state != "finished"
    ]
    if not runs:
        raise RecipeError(f"All runs of {made.name} are finished: there is nothing to print.")
    recipe = load_recipe(runs[0].run.recipe, plugins=user_plugins())
    text = script(made, runs, scheduler, on_cpu=recipe.base_model.device == "cpu")
    made.save(FILE_NAMES[scheduler], text.encode())
    echo_text(text)
    file = made.path / FILE_NAMES[scheduler]
    first = "submit it with: sbatch" if scheduler == "slurm" else "its first lines say how:"
    say(f"{first} {file}", err=True)
    say(f"afterwards: loba sweeps show {made.name}", err=True)


def _tell(made: Sweep, results: Sequence[Result], how: How) -> None:
    """Show a sweep that is over.

    Raises:
        Interrupted: Some of its runs are not finished.
    """
    from loba_tui.client.runs.events import shorten
    from loba_tui.client.sweeps.table import result_lines

    document = {"sweep": str(made.path), "runs": [result.as_json() for result in results]}
    echo_result(document, result_lines(results), as_json=how.as_json)
    if made.file("sheet.png").is_there():
        say(f"picture    {shorten(made.path / 'sheet.png')}", err=True)
    say(f"table      {shorten(made.path / 'table.csv')}", err=True)
    num_left = sum(result.state != "finished" for result in results)
    if num_left:
        raise Interrupted(
            f"{num_left} of {len(results)} runs are not finished.",
            f"Go on with them: loba sweep --resume {made.name}",
        )
