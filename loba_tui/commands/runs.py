"""`loba runs` and `loba queue`: everything that is said to a run that has been started."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from loba_tui.commands.options import Json, echo_json, echo_result, find_run, user_plugins
from loba_tui.core.errors import RefusedError

if TYPE_CHECKING:
    from loba_tui.core.run.control import CommandKind

runs_app = typer.Typer(
    help="List, follow and steer runs.", no_args_is_help=True, rich_markup_mode=None
)
queue_app = typer.Typer(
    help="Runs that wait for their device.", no_args_is_help=True, rich_markup_mode=None
)

Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run folder, a name or the unique start of one, or last."),
]

Component = Annotated[
    str, typer.Argument(metavar="COMPONENT", help="As `loba runs show` names it, such as vae.")
]


def _steer(name: str, kind: CommandKind) -> None:
    from loba_tui.client.runs import steer as runs
    from loba_tui.core.run.control import Command

    typer.echo(runs.steer(find_run(name), Command(kind)))


def _move(name: str, kind: CommandKind, component: str) -> None:
    from loba_tui.client.runs import steer as runs

    run_dir = find_run(name)
    runs.require_alive(run_dir, kind)
    typer.echo(runs.steer(run_dir, runs.memory_command(run_dir, kind, component)))


@runs_app.command("ls")
def runs_ls(as_json: Json = False) -> None:
    """List all runs of this user on this machine, newest last.

    Example: loba runs ls --json
    """
    from loba_tui.client.runs import describe as listing
    from loba_tui.core.run.directory import Ledger

    records = [listing.run_record(run_dir) for run_dir in Ledger.of_user(os.environ).runs()]
    echo_result(records, map(listing.run_line, records), as_json=as_json)


@runs_app.command("show")
def runs_show(name: Run, as_json: Json = False) -> None:
    """Show what a run does now, or how it ended.

    Example: loba runs show last
    """
    from loba_tui.client.runs import describe as listing

    record = listing.run_record(find_run(name))
    echo_result(record, listing.record_lines(record), as_json=as_json)


@runs_app.command("logs")
def runs_logs(
    name: Run,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The events as a JSON document; with -f one a line.")
    ] = False,
) -> None:
    """Show a run's events and the end of its log, and with -f what is added to both.

    Example: loba runs logs -f last
    """
    from loba_tui.client.runs import events
    from loba_tui.core.run.records import Event
    from loba_tui.core.text import clean

    found = events.follow(find_run(name), keep_on=follow)
    if as_json and not follow:
        echo_json([events.event_record(each) for each in found if isinstance(each, Event)])
        return
    for each in found:
        if not isinstance(each, Event):
            if not as_json:
                typer.echo(clean(each))
        elif as_json:
            echo_json(events.event_record(each), indent=None)
        else:
            typer.echo(events.event_line(each))


@runs_app.command("pause")
def runs_pause(name: Run) -> None:
    """Hold a run before its next step; it keeps its memory.

    Example: loba runs pause last
    """
    _steer(name, "pause")


@runs_app.command("resume")
def runs_resume(name: Run) -> None:
    """Let a paused run go on, or start one that was stopped or died from its checkpoint.

    Example: loba runs resume last
    """
    from loba_tui.client.runs import steer as runs
    from loba_tui.commands.live_line import foreground

    typer.echo(runs.resume(find_run(name), foreground().program))


@runs_app.command("save")
def runs_save(name: Run) -> None:
    """Have a run save a checkpoint now.

    Example: loba runs save last
    """
    _steer(name, "save")


@runs_app.command("sample")
def runs_sample(name: Run) -> None:
    """Have a run draw a strip of pictures now.

    Example: loba runs sample last
    """
    _steer(name, "sample")


@runs_app.command("set")
def runs_set(
    name: Run,
    assignments: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE...", help="Such as optimizer.lr=1e-4.")
    ],
) -> None:
    """Change settings of a run while it goes on; all are checked before the first is changed.

    What can be changed: optimizer.lr, train.steps, method.preserve_weight, sample.every and
    save.every. A changed train.steps sets the schedules as if the recipe had said so.

    Example: loba runs set last optimizer.lr=1e-4 train.steps=300
    """
    from loba_tui.client.runs import steer as runs

    run_dir, sources = find_run(name), user_plugins()
    runs.require_alive(run_dir, "set")
    for command in [runs.set_command(run_dir, each, sources) for each in assignments]:
        typer.echo(runs.steer(run_dir, command))


@runs_app.command("unload")
def runs_unload(name: Run, component: Component) -> None:
    """Free the memory of a component, such as vae; it is loaded again when it is needed.

    The pictures of a run need the VAE, which then comes and goes. What training needs at every step
    is refused. The result of the run stays the same, bit for bit.

    Example: loba runs unload last vae
    """
    _move(name, "unload", component)


@runs_app.command("offload")
def runs_offload(name: Run, component: Component) -> None:
    """Move a component from the accelerator to the CPU's memory until it is needed.

    Example: loba runs offload last vae
    """
    _move(name, "offload", component)


@runs_app.command("onload")
def runs_onload(name: Run, component: Component) -> None:
    """Bring back what was unloaded or offloaded, and keep it there.

    Example: loba runs onload last vae
    """
    _move(name, "onload", component)


@runs_app.command("stop")
def runs_stop(name: Run) -> None:
    """Have a run finish its step, save and end; `loba runs resume` goes on with it.

    Example: loba runs stop last
    """
    from loba_tui.client.runs import steer as runs
    from loba_tui.core.run.queue import Queue

    typer.echo(runs.stop(find_run(name), Queue.of_user(os.environ)))


@runs_app.command("watch")
def runs_watch(
    until_done: Annotated[
        bool, typer.Option("--until-done", help="End when no run is alive any more.")
    ] = False,
) -> None:
    """Tell when a run finishes, fails, meets a NaN or is dead: a line, the bell, your webhook.

    What is told and how stands in ~/.config/loba/notify.yaml; where a webhook is set, a watcher is
    started with every run, and this one only writes lines beside it.

    Example: loba runs watch
    """
    from loba_tui.client.notify import watcher as watching
    from loba_tui.client.notify.delivery import Settings

    settings = Settings.load(watching.settings_path(os.environ))
    watcher = watching.Watcher(os.environ, settings, sys.stdout)
    if settings.webhook and not watcher.hold():
        typer.echo("another watcher tells the webhook", err=True)
    try:
        watching.stay(watcher, patience=2 * watching.POLL_SECONDS if until_done else None)
    finally:
        watcher.close()


@runs_app.command("rm")
def runs_rm(
    name: Run,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """Delete the folder of a run, its adapter included.

    Example: loba runs rm output/size-slider-…
    """
    from loba_tui.client.runs import describe as listing
    from loba_tui.client.runs import steer as runs
    from loba_tui.core.units import show_mib

    run_dir = find_run(name)
    runs.refuse_removal(run_dir)
    record = listing.run_record(run_dir)
    size = show_mib(runs.size_of(run_dir))
    typer.echo(f"{listing.run_line(record)}  {size}", err=True)
    if record["adapter"] is not None:
        typer.echo("its finished adapter is deleted too", err=True)
    if not yes and not sys.stdin.isatty():
        raise RefusedError(
            "Nothing is removed: there is no terminal to ask on.", "Add --yes to remove it."
        )
    if yes or typer.confirm(f"Remove it and free {size}?", err=True):
        runs.remove(run_dir)
        typer.echo(f"removed {run_dir.path}, {size} are free again")


@queue_app.command("ls")
def queue_ls(as_json: Json = False) -> None:
    """List the runs that wait for their device, in the order in which they start.

    Example: loba queue ls
    """
    from loba_tui.client.runs import describe as listing
    from loba_tui.core.run.queue import Queue

    queue = Queue.of_user(os.environ)
    records = []
    for entry in queue.entries():
        liveness = entry.liveness()
        record = listing.run_record(entry.run)
        records.append({**record, "state": liveness.state, "reason": liveness.reason})
    if as_json:
        echo_json(records)
        return
    for record in records:
        typer.echo(listing.run_line(record))
        if record["state"] == "dead":
            typer.echo(f"{'':10}{record['reason']}")
    if records and not queue.is_supervised():
        typer.echo("nothing is started at present; start with: loba queue start", err=True)


@queue_app.command("start")
def queue_start() -> None:
    """Start what is queued, as after a restart of the machine; interrupted runs go on.

    Example: loba queue start
    """
    from loba_tui.commands.live_line import foreground
    from loba_tui.core.run.queue import Queue

    queue = Queue.of_user(os.environ)
    queue.start_supervisor(program=foreground().program)
    typer.echo(f"{len(queue.entries())} in the queue")


@queue_app.command("rm")
def queue_rm(name: Run) -> None:
    """Take a run that waits out of the queue; its folder stays.

    Example: loba queue rm last
    """
    from loba_tui.client.runs import steer as runs
    from loba_tui.core.errors import RecipeError
    from loba_tui.core.run.queue import Queue

    queue, run_dir = Queue.of_user(os.environ), find_run(name)
    if queue.find(run_dir) is None:
        raise RecipeError(f"{run_dir.name} is not in the queue.", "`loba queue ls` shows it.")
    typer.echo(runs.take_out(run_dir, queue))
