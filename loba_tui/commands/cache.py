"""`loba cache`: what the hub's cache holds, and removing it without fear.

What destroys shows its plan first and asks; what was removed lies in a trash beside the cache until
that is emptied.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from loba_tui.commands.cache_transfer import cache_pull, cache_push_to
from loba_tui.commands.options import (
    DryRun,
    Json,
    NoUndo,
    Recipes,
    Targets,
    Yes,
    confirm,
    echo_json,
    open_cache,
    plain,
)
from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.user_folders import tensors_folder

if TYPE_CHECKING:
    from loba_tui.core.associate.caches.hub.cache import HubCache
    from loba_tui.core.associate.caches.hub.layout import Cache, Problem, Repository
    from loba_tui.core.associate.caches.hub.requests import Prune, Removal
    from loba_tui.core.associate.caches.hub.verify import Checked

cache_app = typer.Typer(
    help="List, check and remove what was fetched from the hub.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
trash_app = typer.Typer(
    help="What was removed and can be undone.", no_args_is_help=True, rich_markup_mode=None
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
    from loba_tui.client.cache import hub_text as cache_listing
    from loba_tui.client.cache import tensor_text as tensor_listing
    from loba_tui.core.associate.caches.hub.layout import Repository

    cache = open_cache([])
    lister = cache_listing.Lister(cache, revisions=revisions)
    found: list[Repository] = []
    foreign: list[Problem] = []

    def repositories() -> Iterable[Repository]:
        for each in cache.repositories():
            if isinstance(each, Repository):
                found.append(each)
                yield each
            else:
                foreign.append(each)

    globs = [f"id={each}" for each in ids or []]
    kept = tensor_listing.rows(tensors_folder(os.environ))
    conditions = [*globs, *(filters or [])]
    records = lister.records(repositories(), conditions, sort, limit, kept)
    if as_json:
        echo_json(list(records))
        return
    if quiet:
        for record in records:
            at = f"@{record['revision']}" if "revision" in record else ""
            typer.echo(plain(f"{record['id']}{at}"))
        return
    typer.echo(cache_listing.HEADER)
    shown = []
    for record in records:
        typer.echo(lister.line(record))
        shown.append(record)
    if limit is None:
        typer.echo(cache_listing.total_line(cache.complete(found)), err=True)
        tensors = tensor_listing.total_line([each for each in shown if "entries" in each])
        if tensors:
            typer.echo(tensors, err=True)
    for each in foreign:
        typer.echo(f"{plain(each.path)}: {plain(each.what)}", err=True)
    interrupted = [entry.id for entry in cache.trash() if entry.is_interrupted]
    for entry_id in interrupted:
        typer.echo(
            f"A deletion was interrupted; `loba cache undo {entry_id}` puts it back.", err=True
        )


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
    from loba_tui.client.cache import hub_text as cache_listing
    from loba_tui.commands import cache_tensors as tensor_commands
    from loba_tui.core.associate.caches.hub.targets import find_targets

    if tensor_commands.are_tensors([target]):
        tensor_commands.show(tensors_folder(os.environ), target, as_json=as_json)
        return
    cache = open_cache(recipes)
    found = cache.scan()
    (wanted,) = find_targets(found, [target])
    record = cache_listing.repository_record(cache, found, wanted)
    if as_json:
        echo_json(record)
        return
    for line in cache_listing.repository_lines(record):
        typer.echo(line)


cache_app.command("pull")(cache_pull)
cache_app.command("push-to")(cache_push_to)


@cache_app.command("rm")
def cache_rm(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="ID, ID@REVISION, ID@REVISION:FILE, or the beginning of a revision's hash.",
            show_default=False,
        ),
    ],
    recipes: Recipes = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    no_undo: NoUndo = False,
    as_json: Json = False,
) -> None:
    """Remove repositories, revisions or single files, after showing what that frees and breaks.

    `latents`, `embeds`, `latents:MODEL` and so on remove what runs keep; that is made again when it
    is needed, and so there is no undo.

    Example: loba cache rm runwayml/stable-diffusion-v1-5 --dry-run
    """
    from loba_tui.commands import cache_tensors as tensor_commands
    from loba_tui.core.associate.caches.hub.requests import Removal
    from loba_tui.core.associate.caches.hub.targets import find_targets

    if tensor_commands.are_tensors(targets):
        tensor_commands.remove(
            tensors_folder(os.environ),
            targets,
            dry_run=dry_run,
            confirm=lambda question: confirm(question, yes=yes),
            as_json=as_json,
        )
        return
    cache = open_cache(recipes)
    found = cache.scan()
    request = Removal(tuple(find_targets(found, targets, files=True)))
    _carry_out(cache, found, request, dry_run=dry_run, yes=yes, no_undo=no_undo, as_json=as_json)


@cache_app.command("prune")
def cache_prune(
    unused: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Neither used nor fetched for so long, such as 90d."),
    ] = None,
    keep_under: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="The least recently used until no more is left."),
    ] = None,
    detached: Annotated[
        bool,
        typer.Option("--detached", help="On no branch or tag, and no run or recipe needs it."),
    ] = False,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="What broken downloads left.")
    ] = False,
    unreferenced: Annotated[
        bool, typer.Option("--unreferenced", help="Contents that no revision links to.")
    ] = False,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="KIND",
            help="latents or embeds that runs keep, instead of the hub's cache; repeatable.",
        ),
    ] = None,
    recipes: Recipes = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    no_undo: NoUndo = False,
    as_json: Json = False,
) -> None:
    """Remove what is of no more use; what is pinned, in use or an hour young stays.

    Without a rule: --detached --incomplete --unreferenced. With --type, what broken writes left
    always goes, and there is no undo: latents and embeddings are made again when they are needed.

    Example: loba cache prune --unused 90d --keep-under 200GB

    Example: loba cache prune --type latents --type embeds --unused 30d
    """
    from loba_tui.core.associate.caches.hub.requests import Prune
    from loba_tui.core.units import parse_age, parse_size

    if kinds:
        from loba_tui.commands import cache_tensors as tensor_commands

        if detached or unreferenced:
            raise RecipeError(
                "--detached and --unreferenced are about the hub's cache, not about --type.",
                "Take --unused and --keep-under.",
            )
        tensor_commands.prune(
            tensors_folder(os.environ),
            tensor_commands.kinds_of(kinds),
            unused=unused,
            keep_under=keep_under,
            dry_run=dry_run,
            confirm=lambda question: confirm(question, yes=yes),
            as_json=as_json,
        )
        return
    by_default = unused is None and keep_under is None
    by_default = by_default and not (detached or incomplete or unreferenced)
    request = Prune(
        now=time.time(),
        unused_seconds=None if unused is None else parse_age(unused),
        keep_bytes=None if keep_under is None else parse_size(keep_under),
        detached=detached or by_default,
        incomplete=incomplete or by_default,
        unreferenced=unreferenced or by_default,
    )
    cache = open_cache(recipes)
    found = cache.scan()
    _carry_out(cache, found, request, dry_run=dry_run, yes=yes, no_undo=no_undo, as_json=as_json)


@cache_app.command("undo")
def cache_undo(
    entry_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Of `trash ls`; the newest if left out.")
    ] = None,
) -> None:
    """Bring back what was removed; what is there again by now is left as it is.

    Example: loba cache undo
    """
    from loba_tui.client.cache import hub_text as cache_listing

    for line in cache_listing.restored_lines(open_cache([]).undo(entry_id)):
        typer.echo(line)


@cache_app.command("pin")
def cache_pin(targets: Targets) -> None:
    """Keep repositories or revisions from being removed by anything here.

    Example: loba cache pin stabilityai/stable-diffusion-xl-base-1.0
    """
    from loba_tui.core.associate.caches.hub.targets import find_targets, target_name

    cache = open_cache([])
    found = cache.scan()
    wanted = find_targets(found, targets)
    cache.pin(wanted)
    for target in wanted:
        typer.echo(f"pinned {target_name(found, target)}")


@cache_app.command("unpin")
def cache_unpin(targets: Targets) -> None:
    """Take pins away.

    Example: loba cache unpin stabilityai/stable-diffusion-xl-base-1.0
    """
    from loba_tui.core.associate.caches.hub.targets import find_targets, target_name

    cache = open_cache([])
    found = cache.scan()
    wanted = find_targets(found, targets)
    pins = cache.pins()
    cache.pin(wanted, keep=False)
    for target in wanted:
        name = target_name(found, target)
        typer.echo(f"unpinned {name}" if target in pins else f"{name} was not pinned")


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
    from loba_tui.commands import cache_tensors as tensor_commands
    from loba_tui.core.associate.caches.hub.targets import find_targets, parts_of
    from loba_tui.core.units import show_size

    if tensor_commands.are_tensors(targets or []):
        root = tensors_folder(os.environ)
        tensor_commands.verify(root, targets or [], as_json=as_json)
        return
    cache = open_cache([])
    found = cache.scan()
    chosen = parts_of(found, find_targets(found, targets)) if targets else found.repositories
    results: list[Checked] = []
    for number, repository in enumerate(chosen, 1):
        name = plain(repository.name)
        typer.echo(f"[{number}/{len(chosen)}] {name}  {show_size(repository.size)}", err=True)
        for checked in cache.verify(repository):
            results.append(checked)
            if checked.verdict != "good" and not as_json:
                where = f"{plain(checked.repository)} {plain(checked.path)}"
                typer.echo(f"{checked.verdict:9}{where}: {plain(checked.why)}")
    counts = {
        verdict: sum(each.verdict == verdict for each in results)
        for verdict in ("good", "damaged", "missing", "unknown")
    }
    if as_json:
        echo_json({**counts, "files": [each._asdict() for each in results]})
    else:
        typer.echo(", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number))
    if counts["damaged"] or counts["missing"]:
        raise CorruptError(
            f"{counts['damaged'] + counts['missing']} files are not what they should be.",
            "Remove them with `loba cache rm ID@REVISION:FILE`, then `loba cache pull` it again.",
        )


@trash_app.command("ls")
def trash_ls(as_json: Json = False) -> None:
    """List deletions that can be undone, newest last, with what emptying each would free.

    Example: loba cache trash ls
    """
    from loba_tui.client.cache import hub_text as cache_listing

    cache = open_cache([])
    records = [
        cache_listing.entry_record(entry, cache.trash_size([entry])) for entry in cache.trash()
    ]
    if as_json:
        echo_json(records)
        return
    for record in records:
        typer.echo(cache_listing.entry_line(record))


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
        typer.echo("nothing to empty")
        return
    size = show_size(cache.trash_size(entries))
    for entry in entries:
        typer.echo(f"  {entry.id}  {plain(', '.join(entry.what))}", err=True)
    confirm(f"Remove this for good and free {size}?", yes=yes)
    typer.echo(f"freed {show_size(cache.empty_trash(entries))}")


def _carry_out(
    cache: HubCache,
    found: Cache,
    request: Removal | Prune,
    *,
    dry_run: bool,
    yes: bool,
    no_undo: bool,
    as_json: bool,
) -> None:
    """Show a plan, ask, and do it."""
    from loba_tui.client.cache import hub_text as cache_listing
    from loba_tui.core.associate.caches.hub.targets import refuse
    from loba_tui.core.units import show_size

    plan = cache.plan(request, found)
    if not as_json:
        for line in cache_listing.plan_lines(found, plan):
            typer.echo(line, err=not dry_run)
    if dry_run:
        if as_json:
            echo_json(cache_listing.plan_record(found, plan))
        return
    refuse(plan, found)
    if not plan.items:
        typer.echo("nothing to remove", err=as_json)
        if as_json:
            echo_json(cache_listing.plan_record(found, plan) | {"trash": None})
        return
    confirm("Remove it?" if not no_undo else "Remove it for good?", yes=yes)
    entry = cache.execute(plan)
    assert entry is not None
    if no_undo:
        freed = cache.empty_trash([entry])
    if as_json:
        echo_json(cache_listing.plan_record(found, plan) | {"trash": None if no_undo else entry.id})
    elif no_undo:
        typer.echo(f"freed {show_size(freed)}")
    else:
        typer.echo(
            f"moved {show_size(plan.frees)} to the trash as {entry.id}; "
            "`loba cache undo` brings it back, `loba cache trash empty` frees the space"
        )
