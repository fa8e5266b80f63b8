"""`loba sweeps`: the sweeps of this machine."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from loba_tui.commands.options import Json, echo_lines, echo_result, say, user_ledger

sweeps_app = typer.Typer(
    help="List, show and stop sweeps.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[
    str,
    typer.Argument(metavar="SWEEP", help="A sweep's folder, the unique start of a name, or last."),
]


@sweeps_app.command("ls")
def sweeps_ls(as_json: Json = False) -> None:
    """List the sweeps of this machine, newest last: how many runs are done, and the best one.

    Example: loba sweeps ls
    """
    from loba_tui.client.sweeps.overview import overview_line, overviews

    found = overviews(user_ledger())
    echo_result([each.as_json() for each in found], map(overview_line, found), as_json=as_json)


@sweeps_app.command("show")
def sweeps_show(name: Name, as_json: Json = False) -> None:
    """Show the runs of a sweep, best first, and write its table.csv and sheet.png anew.

    Example: loba sweeps show last
    """
    from loba_tui.client.sweeps.folder import find_sweep
    from loba_tui.client.sweeps.running import conclude
    from loba_tui.client.sweeps.table import result_lines

    found = find_sweep(name, user_ledger())
    results = conclude(found)
    document = {"sweep": str(found.path), "runs": [result.as_json() for result in results]}
    echo_result(document, result_lines(results), as_json=as_json)


@sweeps_app.command("stop")
def sweeps_stop(name: Name) -> None:
    """Take a sweep's waiting runs out of the queue, and have the others save and end.

    Example: loba sweeps stop last
    """
    from loba_tui.client.sweeps.folder import find_sweep
    from loba_tui.client.sweeps.running import stop_sweep
    from loba_tui.core.run.queue import Queue

    found = find_sweep(name, user_ledger())
    echo_lines(stop_sweep(found, Queue.of_user(os.environ)))
    say(f"go on with: loba sweep --resume {found.name}", err=True)
