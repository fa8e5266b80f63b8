"""`loba run` and `loba replay`: train what a recipe or an adapter says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loba_tui.commands.options import (
    OutDir,
    Recipe,
    Set,
    echo_lines,
    find_run,
    user_ledger,
    user_plugins,
)
from loba_tui.core.errors import ExitCode

if TYPE_CHECKING:
    from loba_tui.core.run.directory import RunDir

Resume = Annotated[
    str | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")
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
YesToHub = Annotated[
    bool, typer.Option("--yes", "-y", help="Run a recipe from the hub without asking.")
]


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
    yes: YesToHub = False,
) -> None:
    """Train what a recipe says, with a live progress line; Ctrl-C saves and stops.

    Example: loba run recipes/slider.yaml --set train.steps=100
    """
    from loba_tui.client.runs import start
    from loba_tui.client.runs.events import shorten
    from loba_tui.client.runs.results import result_lines
    from loba_tui.commands.live_line import foreground

    extra = start.extra_arguments(resume is not None, deadline)
    extra += ["--force"] if force else []
    extra += ["--allow-inexact"] if allow_inexact else []
    if resume is None:
        run_dir = _prepare(recipe, overrides or [], out_dir, yes=yes)
    else:
        start.refuse_with_resume(recipe, overrides)
        run_dir = find_run(resume)
    typer.echo(f"run folder {shorten(run_dir.path)}", err=True)
    here = foreground()
    if queue:
        start.enqueue(run_dir, extra, environ=os.environ, program=here.program)
    elif detach:
        here.detach(run_dir, extra)
    if queue or detach:
        typer.echo(str(run_dir.path))
        return
    echo_lines(result_lines(run_dir, here.run(run_dir, extra)))


def _prepare(recipe: Path | None, overrides: Sequence[str], out_dir: Path, *, yes: bool) -> RunDir:
    """Make the folder of a new run, once a stranger's recipe has been agreed to."""
    from loba_tui.client.runs.start import make_run
    from loba_tui.commands.open_recipe import ask_to_run, open_recipe

    opened = open_recipe(recipe)
    # One that cannot run is told before anybody is asked about it.
    resolved = opened.load(overrides, user_plugins())
    ask_to_run(opened, yes=yes)
    run_dir = make_run(resolved, out_dir, user_ledger())
    opened.record(run_dir)
    return run_dir


def replay(
    wanted: Annotated[str, typer.Argument(metavar="ADAPTER|RUN", help="A file or a run.")],
    out_dir: OutDir = Path("output"),
) -> None:
    """Make an adapter again, steering included, and say whether the file is the very same.

    Example: loba replay last
    """
    from loba_tui.client.runs import replay as replaying
    from loba_tui.client.runs.events import shorten
    from loba_tui.commands.live_line import foreground

    file = Path(wanted)
    original = replaying.Adapter.read(file if file.is_file() else find_run(wanted).adapter)
    run_dir = replaying.prepare(original, out_dir, user_ledger(), user_plugins())
    typer.echo(f"run folder {shorten(run_dir.path)}", err=True)
    foreground().run(run_dir)
    is_identical, lines = replaying.compare(original, run_dir)
    echo_lines(lines)
    if not is_identical:
        raise typer.Exit(int(ExitCode.NUMERICS))
