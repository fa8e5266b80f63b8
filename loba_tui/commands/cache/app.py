"""`loba cache`: list, show, pin and check what the hub's cache holds and what runs keep."""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from loba_tui.commands.cache.backends import backend_of
from loba_tui.commands.cache.removal import cache_prune, cache_rm, cache_undo, trash_app
from loba_tui.commands.cache.transfer import cache_pull, cache_push_to
from loba_tui.commands.options import (
    Json,
    Recipes,
    Targets,
    echo_json,
    echo_result,
    open_cache,
    say,
)
from loba_tui.core.user_folders import tensors_folder

if TYPE_CHECKING:
    from loba_tui.client.cache.backend import CacheBackend

cache_app = typer.Typer(
    help="List, check and remove what was fetched from the hub.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
cache_app.add_typer(trash_app, name="trash")


@cache_app.command("ls")
def cache_ls(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[GLOB]...", help="Such as stabilityai/*.")
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "-f",
            "--filter",
            metavar="CONDITION",
            help="size>1GB, used>30d, modified<7d, type=latents, refs=main, is=pinned; repeatable.",
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(metavar="KEY", help="size, used, modified or name; :asc or :desc.")
    ] = "",
    revisions: Annotated[bool, typer.Option("--revisions", help="A row a revision.")] = False,
    limit: Annotated[int | None, typer.Option(min=0, help="Most rows to show.")] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="One id a line.")] = False,
    as_json: Json = False,
) -> None:
    """List repositories: size on disk, last used by a run, last fetched, revisions and marks.

    After them come the latents and text embeddings that runs keep, a row for each model.

    Example: loba cache ls -f "size>1GB" -f "used>30d" --sort size
    """
    from loba_tui.client.cache import listing
    from loba_tui.client.cache.hub_backend import HubBackend
    from loba_tui.client.cache.tensor_backend import TensorBackend

    backends: list[CacheBackend] = [
        HubBackend(open_cache([])),
        TensorBackend(tensors_folder(os.environ)),
    ]
    rows = itertools.chain.from_iterable(each.rows(revisions=revisions) for each in backends)
    conditions = [*(f"id={each}" for each in ids or []), *(filters or [])]
    now = time.time()
    records = listing.choose(rows, conditions, sort, limit, now)
    if as_json:
        echo_json(list(records))
        return
    if quiet:
        for record in records:
            at = f"@{record['revision']}" if "revision" in record else ""
            say(f"{record['id']}{at}")
        return
    say(listing.HEADER)
    shown = []
    for record in records:
        say(listing.record_line(record, now))
        shown.append(record)
    notes = [each.total(shown) for each in backends] if limit is None else []
    notes += [warning for each in backends for warning in each.warnings()]
    for note in filter(None, notes):
        say(note, err=True)


@cache_app.command("show")
def cache_show(
    target: Annotated[str, typer.Argument(metavar="ID[@REVISION]", show_default=False)],
    recipes: Recipes = None,
    as_json: Json = False,
) -> None:
    """Show a repository's revisions and files, what is broken in it, and who needs it.

    `latents:MODEL` and `embeds:MODEL` show what runs keep of a model.

    Example: loba cache show stabilityai/stable-diffusion-xl-base-1.0
    """
    shown = backend_of([target], recipes).show(target)
    echo_result(shown.record, shown.lines, as_json=as_json)


cache_app.command("pull")(cache_pull)
cache_app.command("push-to")(cache_push_to)
cache_app.command("rm")(cache_rm)
cache_app.command("prune")(cache_prune)
cache_app.command("undo")(cache_undo)


@cache_app.command("pin")
def cache_pin(targets: Targets) -> None:
    """Keep repositories or revisions from being removed by anything here.

    Example: loba cache pin stabilityai/stable-diffusion-xl-base-1.0
    """
    for name, _ in _set_pins(targets, keep=True):
        say(f"pinned {name}")


@cache_app.command("unpin")
def cache_unpin(targets: Targets) -> None:
    """Take pins away.

    Example: loba cache unpin stabilityai/stable-diffusion-xl-base-1.0
    """
    for name, was_pinned in _set_pins(targets, keep=False):
        say(f"unpinned {name}" if was_pinned else f"{name} was not pinned")


def _set_pins(targets: Sequence[str], *, keep: bool) -> list[tuple[str, bool]]:
    """Pin or unpin targets; return each one's name and whether it was pinned before."""
    from loba_tui.core.associate.caches.hub.targets import find_targets, target_name

    cache = open_cache([])
    found = cache.scan()
    wanted = find_targets(found, targets)
    pins = cache.pins()
    cache.pin(wanted, keep=keep)
    return [(target_name(found, target), target in pins) for target in wanted]


@cache_app.command("verify")
def cache_verify(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID[@REVISION]]...", help="All of them if left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every file again and compare it with its checksum, without the network.

    `latents` and `embeds` check what runs keep.

    Example: loba cache verify stabilityai/stable-diffusion-xl-base-1.0
    """

    def warn(text: str) -> None:
        if not as_json:
            say(text)

    found = backend_of(targets or [], []).verify(
        targets or [], tell=functools.partial(say, err=True), warn=warn
    )
    echo_result(found.record, [found.summary], as_json=as_json)
    if found.error is not None:
        raise found.error
