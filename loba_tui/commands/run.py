"""`loba run` and `loba replay`: train what a recipe or an adapter says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loba_tui.commands.launching.place import Place
from loba_tui.commands.options import (
    Agreed,
    OutDir,
    Recipe,
    Set,
    echo_lines,
    echo_text,
    find_run,
    grouped,
    say,
    user_ledger,
    user_plugins,
)
from loba_tui.core.errors import ExitCode

if TYPE_CHECKING:
    from loba_tui.core.run.directory import RunDir

Resume = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="Go on with a run that was stopped, or is to get more steps."),
]
Detach = Annotated[bool, typer.Option("--detach", help="Start the run and return at once.")]
Queue = Annotated[bool, typer.Option("--queue", help="Start the run once its device is free.")]
Deadline = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="Save and stop by then: 2h, 07:30 or an ISO time."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Start although the estimate says it cannot fit.")
]
AllowInexact = Annotated[
    bool, typer.Option("--allow-inexact", help="Resume what another machine has saved.")
]


@grouped
def run(
    recipe: Recipe = None,
    overrides: Set = None,
    out_dir: OutDir = Path("output"),
    resume: Resume = None,
    detach: Detach = False,
    queue: Queue = False,
    deadline: Deadline = None,
    force: Force = False,
    allow_inexact: AllowInexact = False,
    place: Place = Place(),  # noqa: B008  frozen
    agreed: Agreed = Agreed(),  # noqa: B008  frozen
) -> None:
    """Train what a recipe says, with a live progress line; Ctrl-C saves and stops.

    A recipe from a hub, or of a run that is not in your list of runs, is shown and asked about.

    With --resume, --set gives a finished run more steps, and changes what `loba runs set` can. It
    goes on with the processes and hosts that it has, unless others are named.

    Example: loba run recipes/slider.yaml --set train.steps=100
    """
    from loba_tui.client.launching.place import change_shape, launch_text
    from loba_tui.client.runs import start
    from loba_tui.client.runs.events import shorten
    from loba_tui.client.runs.results import result_lines
    from loba_tui.commands.live_line import foreground
    from loba_tui.commands.open_recipe import ask_to_resume

    extra = start.extra_arguments(resume is not None, deadline)
    extra += ["--force"] if force else []
    extra += ["--allow-inexact"] if allow_inexact else []
    if resume is None:
        run_dir = _prepare(recipe, overrides or [], out_dir, place, agreed)
    else:
        start.refuse_with_resume(recipe)
        run_dir = find_run(resume)
        ask_to_resume(run_dir, agreed)
        extra += start.change_arguments(run_dir, overrides or [], user_plugins())
        change_shape(run_dir, place.wanted(), user_plugins(), inexact=allow_inexact)
    say(f"run folder {shorten(run_dir.path)}", err=True)
    if place.print_launch is not None:
        echo_text(launch_text(place.print_launch, run_dir, extra, user_plugins()))
        return
    here = foreground()
    if queue:
        start.enqueue(run_dir, extra, environ=os.environ, program=here.program)
    elif detach:
        here.detach(run_dir, extra)
    if queue or detach:
        say(run_dir.path)
        return
    echo_lines(result_lines(run_dir, here.run(run_dir, extra)))


def _prepare(
    recipe: Path | None, overrides: Sequence[str], out_dir: Path, place: Place, agreed: Agreed
) -> RunDir:
    """Make the folder of a new run, once a stranger's recipe has been agreed to."""
    from loba_tui.client.launching.place import shape_of
    from loba_tui.client.runs.start import make_run, with_named_run
    from loba_tui.commands.open_recipe import load_agreed, open_recipe

    opened = open_recipe(recipe, yes=agreed.yes)
    resolved = load_agreed(opened, overrides, agreed)
    ledger = user_ledger()
    if opened.origin is None:  # a stranger's recipe begins with no run of this user's
        resolved = with_named_run(resolved, opened.path, ledger)
    shape = shape_of(place.wanted(), resolved)
    run_dir = make_run(resolved, out_dir, ledger)
    if shape is not None:
        shape.write(run_dir)
    opened.record(run_dir)
    return run_dir


@grouped
def replay(
    wanted: Annotated[str, typer.Argument(metavar="ADAPTER|RUN", help="A file or a run.")],
    out_dir: OutDir = Path("output"),
    agreed: Agreed = Agreed(),  # noqa: B008  frozen
) -> None:
    """Make an adapter again, steering included, and say whether the file is the very same.

    The recipe in a file that is not one of your runs' is shown and asked about.

    Example: loba replay last
    """
    from loba_tui.client.runs import replay as replaying
    from loba_tui.client.runs.events import shorten
    from loba_tui.client.runs.request_recipes import own_recipe_of_run, recipe_of_adapter
    from loba_tui.commands.live_line import foreground
    from loba_tui.commands.open_recipe import load_found

    file, owner = Path(wanted), None
    if not file.is_file():
        owner = find_run(wanted)
    original = replaying.Adapter.read(file if owner is None else owner.adapter)
    replaying.require_recipe(original)
    steering, ledger = replaying.steering_of(original), user_ledger()
    found = recipe_of_adapter(original.metadata, original.path, ledger, steering)
    recipe = replaying.with_initial_adapter(
        load_found(found, agreed), original, own_recipe_of_run(original.path, found, user_plugins())
    )
    run_dir = replaying.prepare(recipe, steering, out_dir, ledger)
    say(f"run folder {shorten(run_dir.path)}", err=True)
    foreground().run(run_dir)
    is_identical, lines = replaying.compare(original, run_dir)
    echo_lines(lines)
    if not is_identical:
        raise typer.Exit(int(ExitCode.NUMERICS))
