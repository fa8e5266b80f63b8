"""`loba cache rm|prune|undo|trash`: removing without fear.

What destroys shows its plan first and asks; what was removed lies in a trash beside the cache until
that is emptied.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from loba_tui.commands.cache.backends import backend_of
from loba_tui.commands.options import (
    Json,
    Recipes,
    RemovalOptions,
    Yes,
    confirm,
    echo_json,
    echo_lines,
    echo_result,
    grouped,
    open_cache,
    say,
)
from loba_tui.core.text import clean
from loba_tui.core.user_folders import tensors_folder

if TYPE_CHECKING:
    from loba_tui.client.cache.backend import CacheBackend, PlannedRemoval

trash_app = typer.Typer(
    help="What was removed and can be undone.", no_args_is_help=True, rich_markup_mode=None
)


@grouped
def cache_rm(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="ID, ID@REVISION, ID@REVISION:FILE, or the beginning of a revision's hash.",
            show_default=False,
        ),
    ],
    *,
    recipes: Recipes = None,
    options: RemovalOptions,
) -> None:
    """Remove repositories, revisions or single files, after showing what that frees and breaks.

    `latents`, `embeds`, `latents:MODEL` and so on remove what runs keep; that is made again when it
    is needed, and so there is no undo.

    Example: loba cache rm runwayml/stable-diffusion-v1-5 --dry-run
    """
    backend = backend_of(targets, recipes)
    _carry_out(backend.plan_removal(targets, for_good=options.no_undo), options)


@dataclass(frozen=True)
class PruneOptions:
    """By which rules `loba cache prune` goes."""

    unused: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Neither used nor fetched for so long, such as 90d."),
    ] = None
    keep_under: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="The least recently used until no more is left."),
    ] = None
    detached: Annotated[
        bool,
        typer.Option("--detached", help="On no branch or tag, and no run or recipe needs it."),
    ] = False
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="What broken downloads left.")
    ] = False
    unreferenced: Annotated[
        bool, typer.Option("--unreferenced", help="Contents that no revision links to.")
    ] = False
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="KIND",
            help="latents or embeds that runs keep, instead of the hub's cache; repeatable.",
        ),
    ] = None


@grouped
def cache_prune(*, rules: PruneOptions, recipes: Recipes = None, options: RemovalOptions) -> None:
    """Remove what is of no more use; what is pinned, in use or an hour young stays.

    Without a rule: --detached --incomplete --unreferenced. With --type, what broken writes left
    always goes, and there is no undo: latents and embeddings are made again when they are needed.

    Example: loba cache prune --unused 90d --keep-under 200GB

    Example: loba cache prune --type latents --type embeds --unused 30d
    """
    from loba_tui.client.cache.hub_backend import HubBackend
    from loba_tui.client.cache.tensor_backend import TensorBackend
    from loba_tui.core.associate.caches.hub.requests import Prune
    from loba_tui.core.units import parse_age, parse_size

    backend: CacheBackend
    if rules.kinds:
        backend = TensorBackend(tensors_folder(os.environ), rules.kinds)
    else:
        backend = HubBackend(open_cache(recipes))
    request = Prune(
        now=time.time(),
        unused_seconds=None if rules.unused is None else parse_age(rules.unused),
        keep_bytes=None if rules.keep_under is None else parse_size(rules.keep_under),
        detached=rules.detached,
        incomplete=rules.incomplete,
        unreferenced=rules.unreferenced,
    )
    _carry_out(backend.plan_prune(request, for_good=options.no_undo), options)


def cache_undo(
    entry_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Of `trash ls`; the newest if left out.")
    ] = None,
) -> None:
    """Bring back what was removed; what is there again by now is left as it is.

    Example: loba cache undo
    """
    from loba_tui.client.cache import hub_text

    echo_lines(hub_text.restored_lines(open_cache([]).undo(entry_id)))


@trash_app.command("ls")
def trash_ls(as_json: Json = False) -> None:
    """List deletions that can be undone, newest last, with what emptying each would free.

    Example: loba cache trash ls
    """
    from loba_tui.client.cache import hub_text

    cache = open_cache([])
    records = [hub_text.entry_record(entry, cache.trash_size([entry])) for entry in cache.trash()]
    echo_result(records, map(hub_text.entry_line, records), as_json=as_json)


@trash_app.command("empty")
def trash_empty(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="All of it if left out.")
    ] = None,
    older: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only what was removed so long ago.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Remove for good what lies in the trash; this frees its space and cannot be undone.

    Example: loba cache trash empty --older 7d
    """
    from loba_tui.core.units import parse_age, show_size

    cache = open_cache([])
    entries = [cache.find_entry(each) for each in ids] if ids else cache.trash()
    if older is not None:
        limit = time.time() - parse_age(older)
        entries = [entry for entry in entries if entry.time <= limit]
    if not entries:
        say("nothing to empty")
        return
    size = show_size(cache.trash_size(entries))
    for entry in entries:
        say(f"  {entry.id}  {clean(', '.join(entry.what))}", err=True)
    confirm(f"Remove this for good and free {size}?", yes=yes)
    say(f"freed {show_size(cache.empty_trash(entries))}")


def _carry_out(planned: PlannedRemoval, options: RemovalOptions) -> None:
    if not options.as_json:
        echo_lines(planned.lines, err=not options.dry_run)
    if options.dry_run:
        if options.as_json:
            echo_json(planned.record)
        elif planned.is_empty:
            say("nothing to remove")
        return
    planned.refuse()
    if not planned.is_empty:
        confirm(planned.question, yes=options.yes)
    outcome = planned.execute()
    if options.as_json:
        echo_json(outcome.record)
    if planned.is_empty or not options.as_json:
        say(outcome.text, err=options.as_json)
