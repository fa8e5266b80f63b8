"""`loba cache pull` and `loba cache push-to`: models in from the hub, and on to a remote host."""

from __future__ import annotations

import functools
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from loba_tui.commands.options import DryRun, Json, Targets, echo_json, echo_lines, open_cache, say
from loba_tui.core.output import beneath


def cache_pull(
    target: Annotated[str, typer.Argument(metavar="ID[:FILE][@REVISION]", show_default=False)],
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
    """Fetch a model: only what a diffusers pipeline needs, or one file, safetensors only.

    A pull that broke goes on where it was when it is started again, be it in the middle of a file.

    Example: loba cache pull stabilityai/stable-diffusion-xl-base-1.0 --variant fp16 --dry-run
    """
    from loba_tui.client.cache import pull_text
    from loba_tui.client.recipes import pinning as recipe_pinning
    from loba_tui.core.associate.caches.transfer import pull as hub_pull

    model_id, _, revision = target.removeprefix("hf://").partition("@")
    components = [each.strip() for each in only.split(",") if each.strip()]
    plan = hub_pull.plan_pull(model_id, revision or None, variant=variant, only=components)
    # A recipe of another model is found before gigabytes are fetched.
    pinned = [recipe_pinning.plan_pinning(path, model_id, plan.commit) for path in pin_into or []]
    if not as_json:
        echo_lines(pull_text.plan_lines(plan), err=not dry_run)
    if dry_run:
        for pinning in pinned:
            echo_lines(pinning.lines(), err=as_json)
    else:
        with closing(pull_text.PullProgress(plan, beneath(sys.stderr))) as progress:
            folder = hub_pull.pull(plan, progress.report)
        # What the recipe is by now counts: it may have been edited while the model came.
        for path in pin_into or []:
            pinning = recipe_pinning.plan_pinning(path, model_id, plan.commit)
            pinning.write()
            echo_lines(pinning.lines(), err=True)
    if as_json:
        record = pull_text.plan_record(plan)
        echo_json(record if dry_run else record | {"path": str(folder)})
    elif not dry_run:
        say(folder)


def cache_push_to(
    remote: Annotated[
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
    """Send repositories or revisions to a remote host's cache, by rsync over ssh.

    What is there already is neither sent nor replaced; what broke off goes on where it was; at the
    end every content is read again on the host and compared.

    Example: loba cache push-to gpu2 stabilityai/stable-diffusion-xl-base-1.0 --dry-run
    """
    from loba_tui.client.cache import send_text
    from loba_tui.core.associate.caches.hub.targets import find_targets
    from loba_tui.core.associate.caches.transfer import remote_host
    from loba_tui.core.associate.caches.transfer import send as hub_send

    host, path = remote_host.parse_remote(remote)
    cache = open_cache([])
    found = cache.scan()
    wanted = find_targets(found, targets)
    may_ask = sys.stdin.isatty() and sys.stderr.isatty()
    with remote_host.connected(host, ssh_config=ssh_config, may_ask=may_ask) as there:
        plan = hub_send.plan_send(found, cache.root, wanted, there, path)
        record = send_text.plan_record(found, plan, host)
        if not as_json:
            echo_lines(send_text.plan_lines(record), err=not dry_run)
        if not dry_run:
            screen = beneath(sys.stderr) if sys.stderr.isatty() else None
            kept = hub_send.send(
                plan, cache.root, there, screen, say=functools.partial(say, err=True)
            )
    if as_json:
        echo_json(record if dry_run else record | {"kept_refs": kept})
    elif not dry_run:
        echo_lines(send_text.result_lines(record, kept))
