"""`loba runs`: everything that is said to a run that has been started."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loba_tui.commands.options import (
    Agreed,
    Json,
    Run,
    echo_json,
    echo_lines,
    echo_result,
    find_run,
    grouped,
    say,
    user_ledger,
    user_plugins,
)
from loba_tui.core.errors import RecipeError, RefusedError
from loba_tui.core.text import clean

if TYPE_CHECKING:
    from loba_tui.core.run.control import CommandKind

runs_app = typer.Typer(
    help="List, follow and steer runs.", no_args_is_help=True, rich_markup_mode=None
)

Component = Annotated[
    str, typer.Argument(metavar="COMPONENT", help="As `loba runs show` names it, such as vae.")
]


def _steer(name: str, kind: CommandKind) -> None:
    from loba_tui.client.runs import steer
    from loba_tui.core.run.control import Command

    say(steer.steer(find_run(name), Command(kind)))


def _move(name: str, kind: CommandKind, component: str) -> None:
    from loba_tui.client.runs import steer

    run_dir = find_run(name)
    steer.require_alive(run_dir, kind)
    say(steer.steer(run_dir, steer.memory_command(run_dir, kind, component)))


@runs_app.command("ls")
def runs_ls(
    sweep: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="Only the runs of this sweep.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List all runs of this user on this machine, newest last; those of a sweep together.

    Example: loba runs ls --json
    """
    from loba_tui.client.runs.describe import list_lines, run_record
    from loba_tui.client.sweeps.folder import find_sweep
    from loba_tui.client.sweeps.overview import overview, overview_line

    ledger = user_ledger()
    runs = ledger.runs()
    if sweep is not None:
        runs = [each.run for each in find_sweep(sweep, ledger).runs if each.run.recipe.is_there()]
    records = [run_record(run_dir) for run_dir in runs]
    if as_json:
        echo_json(records)
        return
    paths = dict.fromkeys(each["sweep"]["path"] for each in records if each["sweep"] is not None)
    headers = {path: overview_line(overview(Path(path))) for path in paths}
    echo_lines(list_lines(records, headers))


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

    found = events.follow(find_run(name), keep_on=follow)
    if as_json and not follow:
        echo_json([events.event_record(each) for each in found if isinstance(each, Event)])
        return
    for each in found:
        if not isinstance(each, Event):
            if not as_json:
                say(clean(each))
        elif as_json:
            echo_json(events.event_record(each), indent=None)
        else:
            say(events.event_line(each))


@runs_app.command("pause")
def runs_pause(name: Run) -> None:
    """Hold a run before its next step; it keeps its memory.

    Example: loba runs pause last
    """
    _steer(name, "pause")


@runs_app.command("resume")
@grouped
def runs_resume(name: Run, agreed: Agreed = Agreed()) -> None:  # noqa: B008  frozen
    """Let a paused run go on, or start one that was stopped or died from its checkpoint.

    The recipe of a run that is not in your list of runs is shown and asked about.

    Example: loba runs resume last
    """
    from loba_tui.client.runs import steer
    from loba_tui.commands.live_line import foreground
    from loba_tui.commands.open_recipe import ask_to_resume

    run_dir = find_run(name)
    ask_to_resume(run_dir, agreed)
    say(steer.resume(run_dir, foreground().program))


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
    from loba_tui.client.runs import steer

    run_dir, sources = find_run(name), user_plugins()
    steer.require_alive(run_dir, "set")
    for command in [steer.set_command(run_dir, each, sources) for each in assignments]:
        say(steer.steer(run_dir, command))


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
    from loba_tui.client.runs import steer
    from loba_tui.core.run.queue import Queue

    say(steer.stop(find_run(name), Queue.of_user(os.environ)))


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
    from loba_tui.client.notify import watcher
    from loba_tui.client.notify.delivery import Settings

    settings = Settings.load(watcher.settings_path(os.environ))
    notifier = watcher.Notifier(os.environ, settings, sys.stdout)
    if settings.webhook and not notifier.hold():
        say("another watcher tells the webhook", err=True)
    try:
        watcher.stay(notifier, patience=2 * watcher.POLL_SECONDS if until_done else None)
    finally:
        notifier.close()


@runs_app.command("rm")
def runs_rm(
    name: Run,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """Delete the folder of a run, its adapter included.

    Example: loba runs rm output/size-slider-…
    """
    from loba_tui.client.runs import describe as listing
    from loba_tui.client.runs import steer
    from loba_tui.core.units import show_mib

    if Path(name).is_symlink():
        raise RecipeError(f"{clean(name)} is a link, not a run folder.", "Name the folder itself.")
    run_dir = find_run(name)
    steer.refuse_removal(run_dir)
    record = listing.run_record(run_dir)
    size = show_mib(steer.size_of(run_dir))
    say(f"{listing.run_line(record)}  {size}", err=True)
    if record["adapter"] is not None:
        say("its finished adapter is deleted too", err=True)
    if not yes and not sys.stdin.isatty():
        raise RefusedError(
            "Nothing is removed: there is no terminal to ask on.", "Add --yes to remove it."
        )
    if yes or typer.confirm(f"Remove it and free {size}?", err=True):
        steer.remove(run_dir)
        say(f"removed {run_dir.path}, {size} are free again")
