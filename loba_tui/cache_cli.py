"""`loba cache`: what the hub's cache holds, and removing it without fear.

What destroys shows its plan first and asks; what was removed lies in a trash beside the cache until
that is emptied.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loba_tui.core.errors import CorruptError, RecipeError, RefusedError

if TYPE_CHECKING:
    from loba_tui.core.associate.caches import hub

cache_app = typer.Typer(
    help="List, check and remove what was fetched from the hub.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
trash_app = typer.Typer(
    help="What was removed and can be undone.", no_args_is_help=True, rich_markup_mode=None
)
cache_app.add_typer(trash_app, name="trash")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")]
NoUndo = Annotated[
    bool, typer.Option("--no-undo", help="Free the space at once; no undo afterwards.")
]
Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET...",
        help="ID, ID@REVISION, or the beginning of a revision's hash.",
        show_default=False,
    ),
]
Recipes = Annotated[
    list[Path] | None,
    typer.Option(
        "--recipes", metavar="PATH", help="Recipes that may need it; ./recipes if left out."
    ),
]


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
    as_json: Json = False,
) -> None:
    """List repositories: size on disk, last used by a run, last fetched, revisions and marks.

    After them come the latents and text embeddings that runs keep, a row for each model.

    Example: loba cache ls -f "size>1GB" -f "used>30d" --sort size
    """
    from loba_tui import cache_listing, tensor_listing
    from loba_tui.core.associate.caches import hub, tensor_layout

    cache = _open([])
    lister = cache_listing.Lister(cache, revisions=revisions)
    found: list[hub.Repository] = []
    foreign: list[hub.Problem] = []

    def repositories() -> Iterable[hub.Repository]:
        for each in cache.repositories():
            if isinstance(each, hub.Repository):
                found.append(each)
                yield each
            else:
                foreign.append(each)

    globs = [f"id={each}" for each in ids or []]
    kept = tensor_listing.rows(tensor_layout.user_root(os.environ))
    conditions = [*globs, *(filters or [])]
    records = lister.records(repositories(), conditions, sort, limit, kept)
    if as_json:
        _echo_json(list(records))
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
        typer.echo(f"{_clean(each.path)}: {_clean(each.what)}", err=True)
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
    from loba_tui import cache_listing, tensor_commands
    from loba_tui.core.associate.caches import hub, tensor_layout

    if tensor_commands.are_tensors([target]):
        tensor_commands.show(tensor_layout.user_root(os.environ), target, as_json=as_json)
        return
    cache = _open(recipes)
    found = cache.scan()
    (wanted,) = hub.find_targets(found, [target])
    record = cache_listing.repository_record(cache, found, wanted)
    if as_json:
        _echo_json(record)
        return
    for line in cache_listing.repository_lines(record):
        typer.echo(line)


@cache_app.command("pull")
def cache_pull(
    target: Annotated[str, typer.Argument(metavar="ID[@REVISION]", show_default=False)],
    variant: Annotated[
        str | None, typer.Option(help="Weights of a pipeline, such as fp16.")
    ] = None,
    only: Annotated[
        str, typer.Option(metavar="A,B,…", help="Components of a pipeline: unet,vae.")
    ] = "",
    pin_into: Annotated[
        list[Path] | None,
        typer.Option(
            "--pin-into",
            metavar="RECIPE",
            help="Write the commit into this recipe as base_model.revision; repeatable.",
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fetch a model: only what a diffusers pipeline needs, safetensors only.

    A pull that broke goes on where it was when it is started again, be it in the middle of a file.

    Example: loba cache pull stabilityai/stable-diffusion-xl-base-1.0 --variant fp16 --dry-run
    """
    from loba_tui import cache_pulling, recipe_pinning
    from loba_tui.core.associate.caches import hub_pull

    model_id, _, revision = target.removeprefix("hf://").partition("@")
    components = [each.strip() for each in only.split(",") if each.strip()]
    plan = hub_pull.plan_pull(model_id, revision or None, variant=variant, only=components)
    # A recipe of another model is found before gigabytes are fetched.
    pinned = [recipe_pinning.plan_pinning(path, model_id, plan.commit) for path in pin_into or []]
    if not as_json:
        for line in cache_pulling.plan_lines(plan):
            typer.echo(line, err=not dry_run)
    if dry_run:
        for pinning in pinned:
            for line in pinning.lines():
                typer.echo(line, err=as_json)
    else:
        with cache_pulling.PullProgress(plan, sys.stderr) as progress:
            folder = hub_pull.pull(plan, progress.report)
        # What the recipe is by now counts: it may have been edited while the model came.
        for path in pin_into or []:
            pinning = recipe_pinning.plan_pinning(path, model_id, plan.commit)
            pinning.write()
            for line in pinning.lines():
                typer.echo(line, err=True)
    if as_json:
        record = cache_pulling.plan_record(plan)
        _echo_json(record if dry_run else record | {"path": str(folder)})
    elif not dry_run:
        typer.echo(str(folder))


@cache_app.command("push-to")
def cache_push_to(
    rig: Annotated[
        str,
        typer.Argument(
            metavar="HOST[:PATH]", help="As ssh knows it; PATH is its cache.", show_default=False
        ),
    ],
    targets: Targets,
    ssh_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another one than ~/.ssh/config.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Send repositories or revisions to another rig's cache, by rsync over ssh.

    What is there already is neither sent nor replaced; what broke off goes on where it was; at the
    end every content is read again over there and compared.

    Example: loba cache push-to rig2 stabilityai/stable-diffusion-xl-base-1.0 --dry-run
    """
    from loba_tui import cache_sending
    from loba_tui.core.associate.caches import hub, hub_rig, hub_send

    host, path = hub_rig.parse_rig(rig)
    cache = _open([])
    found = cache.scan()
    wanted = hub.find_targets(found, targets)
    may_ask = sys.stdin.isatty() and sys.stderr.isatty()
    with hub_rig.connected(host, ssh_config=ssh_config, may_ask=may_ask) as there:
        plan = hub_send.plan_send(found, cache.root, wanted, there, path)
        record = cache_sending.plan_record(found, plan, host)
        if not as_json:
            for line in cache_sending.plan_lines(record):
                typer.echo(line, err=not dry_run)
        if not dry_run:
            screen = sys.stderr if sys.stderr.isatty() else None
            kept = hub_send.send(plan, cache.root, there, screen)
    if as_json:
        _echo_json(record if dry_run else record | {"kept_refs": kept})
    elif not dry_run:
        for line in cache_sending.result_lines(record, kept):
            typer.echo(line)


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
    from loba_tui import tensor_commands
    from loba_tui.core.associate.caches import hub, tensor_layout

    if tensor_commands.are_tensors(targets):
        tensor_commands.remove(
            tensor_layout.user_root(os.environ),
            targets,
            dry_run=dry_run,
            confirm=lambda question: _confirm(question, yes),
            as_json=as_json,
        )
        return
    cache = _open(recipes)
    found = cache.scan()
    wish = hub.Removal(tuple(hub.find_targets(found, targets, files=True)))
    _carry_out(cache, found, wish, dry_run=dry_run, yes=yes, no_undo=no_undo, as_json=as_json)


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
    from loba_tui.core.associate.caches import hub
    from loba_tui.core.associate.caches.hub_query import parse_age, parse_size

    if kinds:
        from loba_tui import tensor_commands
        from loba_tui.core.associate.caches import tensor_layout

        if detached or unreferenced:
            raise RecipeError(
                "--detached and --unreferenced are about the hub's cache, not about --type.",
                "Take --unused and --keep-under.",
            )
        tensor_commands.prune(
            tensor_layout.user_root(os.environ),
            tensor_commands.kinds_of(kinds),
            unused=unused,
            keep_under=keep_under,
            dry_run=dry_run,
            confirm=lambda question: _confirm(question, yes),
            as_json=as_json,
        )
        return
    by_default = unused is None and keep_under is None
    by_default = by_default and not (detached or incomplete or unreferenced)
    wish = hub.Prune(
        now=time.time(),
        unused_seconds=None if unused is None else parse_age(unused),
        keep_bytes=None if keep_under is None else parse_size(keep_under),
        detached=detached or by_default,
        incomplete=incomplete or by_default,
        unreferenced=unreferenced or by_default,
    )
    cache = _open(recipes)
    found = cache.scan()
    _carry_out(cache, found, wish, dry_run=dry_run, yes=yes, no_undo=no_undo, as_json=as_json)


@cache_app.command("undo")
def cache_undo(
    entry_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Of `trash ls`; the newest if left out.")
    ] = None,
) -> None:
    """Bring back what was removed; what is there again by now is left as it is.

    Example: loba cache undo
    """
    from loba_tui import cache_listing

    for line in cache_listing.restored_lines(_open([]).undo(entry_id)):
        typer.echo(line)


@cache_app.command("pin")
def cache_pin(targets: Targets) -> None:
    """Keep repositories or revisions from being removed by anything here.

    Example: loba cache pin stabilityai/stable-diffusion-xl-base-1.0
    """
    from loba_tui.core.associate.caches import hub

    cache = _open([])
    found = cache.scan()
    wanted = hub.find_targets(found, targets)
    cache.pin(wanted)
    for target in wanted:
        typer.echo(f"pinned {hub.target_name(found, target)}")


@cache_app.command("unpin")
def cache_unpin(targets: Targets) -> None:
    """Take pins away.

    Example: loba cache unpin stabilityai/stable-diffusion-xl-base-1.0
    """
    from loba_tui.core.associate.caches import hub

    cache = _open([])
    found = cache.scan()
    wanted = hub.find_targets(found, targets)
    pins = cache.pins()
    cache.pin(wanted, keep=False)
    for target in wanted:
        name = hub.target_name(found, target)
        typer.echo(f"unpinned {name}" if target in pins else f"{name} was not pinned")


@cache_app.command("verify")
def cache_verify(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="All of them if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every file again and compare it with its checksum, without the network.

    `latents` and `embeds` check what runs keep.

    Example: loba cache verify stabilityai/stable-diffusion-xl-base-1.0
    """
    from loba_tui import tensor_commands
    from loba_tui.core.associate.caches import hub, tensor_layout
    from loba_tui.core.associate.caches.hub_query import show_size

    if tensor_commands.are_tensors(targets or []):
        root = tensor_layout.user_root(os.environ)
        tensor_commands.verify(root, targets or [], as_json=as_json)
        return
    cache = _open([])
    found = cache.scan()
    folders = {target.folder for target in hub.find_targets(found, targets or [])}
    chosen = [each for each in found.repositories if not targets or each.folder in folders]
    results: list[hub.Checked] = []
    for number, repository in enumerate(chosen, 1):
        name = _clean(repository.name)
        typer.echo(f"[{number}/{len(chosen)}] {name}  {show_size(repository.size)}", err=True)
        for checked in cache.verify(repository):
            results.append(checked)
            if checked.verdict != "good" and not as_json:
                where = f"{_clean(checked.repository)} {_clean(checked.path)}"
                typer.echo(f"{checked.verdict:9}{where}: {_clean(checked.why)}")
    counts = {
        verdict: sum(each.verdict == verdict for each in results)
        for verdict in ("good", "damaged", "missing", "unknown")
    }
    if as_json:
        _echo_json({**counts, "files": [each._asdict() for each in results]})
    else:
        typer.echo(", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number))
    if counts["damaged"] or counts["missing"]:
        raise CorruptError(
            f"{counts['damaged'] + counts['missing']} files are not what they should be.",
            "Remove their revision with `loba cache rm` and fetch it again.",
        )


@trash_app.command("ls")
def trash_ls(as_json: Json = False) -> None:
    """List deletions that can be undone, newest last, with what emptying each would free.

    Example: loba cache trash ls
    """
    from loba_tui import cache_listing

    cache = _open([])
    records = [
        cache_listing.entry_record(entry, cache.trash_size([entry])) for entry in cache.trash()
    ]
    if as_json:
        _echo_json(records)
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
    from loba_tui.core.associate.caches.hub_query import parse_age, show_size

    cache = _open([])
    entries = [cache.find_entry(each) for each in ids] if ids else cache.trash()
    if older is not None:
        limit = time.time() - parse_age(older)
        entries = [entry for entry in entries if entry.time <= limit]
    if not entries:
        typer.echo("nothing to empty")
        return
    size = show_size(cache.trash_size(entries))
    for entry in entries:
        typer.echo(f"  {entry.id}  {_clean(', '.join(entry.what))}", err=True)
    _confirm(f"Remove this for good and free {size}?", yes)
    typer.echo(f"freed {show_size(cache.empty_trash(entries))}")


def _carry_out(
    cache: hub.HubCache,
    found: hub.Cache,
    wish: hub.Removal | hub.Prune,
    *,
    dry_run: bool,
    yes: bool,
    no_undo: bool,
    as_json: bool,
) -> None:
    """Show a plan, ask, and do it."""
    from loba_tui import cache_listing
    from loba_tui.core.associate.caches import hub
    from loba_tui.core.associate.caches.hub_query import show_size

    plan = cache.plan(wish, found)
    if not as_json:
        for line in cache_listing.plan_lines(found, plan):
            typer.echo(line, err=not dry_run)
    if dry_run:
        if as_json:
            _echo_json(cache_listing.plan_record(found, plan))
        return
    hub.refuse(plan, found)
    if not plan.items:
        typer.echo("nothing to remove", err=as_json)
        if as_json:
            _echo_json(cache_listing.plan_record(found, plan) | {"trash": None})
        return
    _confirm("Remove it?" if not no_undo else "Remove it for good?", yes)
    entry = cache.execute(plan)
    assert entry is not None
    if no_undo:
        freed = cache.empty_trash([entry])
    if as_json:
        _echo_json(
            cache_listing.plan_record(found, plan) | {"trash": None if no_undo else entry.id}
        )
    elif no_undo:
        typer.echo(f"freed {show_size(freed)}")
    else:
        typer.echo(
            f"moved {show_size(plan.frees)} to the trash as {entry.id}; "
            "`loba cache undo` brings it back, `loba cache trash empty` frees the space"
        )


def _open(recipes: list[Path] | None = None) -> hub.HubCache:
    """Return the user's cache with what is known of runs and, where asked for, recipes."""
    from loba_tui import cache_listing
    from loba_tui.core.associate.caches import hub
    from loba_tui.core.run.directory import Ledger

    given = recipes if recipes is not None else [Path("recipes")]
    usage = hub.usage_of(Ledger.of_user(os.environ), [path for path in given if path.exists()])
    return hub.HubCache(cache_listing.cache_root(os.environ), usage)


def _confirm(question: str, yes: bool) -> None:
    """Ask, or refuse where nobody can answer.

    Raises:
        RefusedError: There is no terminal and no --yes.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise RefusedError(
            "Nothing was removed: there is no terminal to ask on.", "Add --yes to go ahead."
        )
    if not typer.confirm(question, err=True):
        typer.echo("nothing was removed", err=True)
        raise typer.Exit(0)


def _clean(text: object) -> str:
    from loba_tui.core.text import clean

    return clean(text)


def _echo_json(document: Any) -> None:
    # Names may hold bytes that are no UTF-8; escaped, they are JSON all the same.
    typer.echo(json.dumps(document, indent=2))
