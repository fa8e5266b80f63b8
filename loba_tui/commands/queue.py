"""`loba queue`: the runs that wait for their device."""

from __future__ import annotations

import os

import typer

from loba_tui.commands.options import Json, Run, echo_json, find_run, say
from loba_tui.core.errors import RecipeError

queue_app = typer.Typer(
    help="Runs that wait for their device.", no_args_is_help=True, rich_markup_mode=None
)


@queue_app.command("ls")
def queue_ls(as_json: Json = False) -> None:
    """List the runs that wait for their device, in the order in which they start.

    Example: loba queue ls
    """
    from loba_tui.client.runs.describe import run_line, run_record
    from loba_tui.core.run.queue import Queue

    queue = Queue.of_user(os.environ)
    records = []
    for entry in queue.entries():
        liveness = entry.liveness()
        record = run_record(entry.run)
        records.append({**record, "state": liveness.state, "reason": liveness.reason})
    if as_json:
        echo_json(records)
        return
    for record in records:
        say(run_line(record))
        if record["state"] == "dead":
            say(f"{'':10}{record['reason']}")
    if records and not queue.is_supervised():
        say("nothing is started at present; start with: loba queue start", err=True)


@queue_app.command("start")
def queue_start() -> None:
    """Start what is queued, as after a restart of the machine; interrupted runs go on.

    Example: loba queue start
    """
    from loba_tui.commands.live_line import foreground
    from loba_tui.core.run.queue import Queue

    queue = Queue.of_user(os.environ)
    queue.start_supervisor(program=foreground().program)
    say(f"{len(queue.entries())} in the queue")


@queue_app.command("rm")
def queue_rm(name: Run) -> None:
    """Take a run that waits out of the queue; its folder stays.

    Example: loba queue rm last
    """
    from loba_tui.client.runs.steer import take_out
    from loba_tui.core.run.queue import Queue

    queue, run_dir = Queue.of_user(os.environ), find_run(name)
    if queue.find(run_dir) is None:
        raise RecipeError(f"{run_dir.name} is not in the queue.", "`loba queue ls` shows it.")
    say(take_out(run_dir, queue))
