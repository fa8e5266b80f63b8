"""`loba push`: the plan first, then the question, then the upload."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loba_tui.commands.options import (
    Json,
    Yes,
    confirm,
    echo_json,
    echo_lines,
    echo_result,
    find_run,
    say,
    user_plugins,
)
from loba_tui.core.output import ungated
from loba_tui.core.text import clean

if TYPE_CHECKING:
    from loba_tui.client.hub.push_plan import PushPlan


def push(
    run_name: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder, its name, or last.")
    ],
    repo: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Yours and the recipe's name, if left out."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see it; else only you do.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="main if left out; made if missing.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="What the commit is called.")] = None,
    license_id: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="The base model's, if left out."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be uploaded and do nothing.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Upload a finished run to the hub: adapter in both forms, recipe, report, strip and a card.

    The repository is private unless --public is given; your login is that of `hf auth login`.

    Example: loba push last --repo me/size-slider --dry-run
    """
    from loba_tui.client.hub import push as pushing
    from loba_tui.client.hub.push_plan import Choices, plan_push

    run_dir = find_run(run_name)
    plan = plan_push(
        run_dir,
        Choices(repo, public, revision, license_id),
        os.environ,
        plugins=user_plugins(),
        needs_login=not dry_run,
    )
    record = _record(plan)
    if not as_json:
        echo_lines(_lines(plan), err=not dry_run)
    if dry_run:
        if as_json:
            echo_json(record)
        return
    commit = plan.parent
    if plan.changed:
        _ask(plan, yes)
        commit = _upload(plan, message or pushing.default_message(run_dir))
    else:
        say("nothing changed; it is all there already", err=True)
    rows = {"page": plan.url, "commit": commit, "load with": plan.load_line}
    lines = (f"{label:11}{value}" for label, value in rows.items())
    echo_result(record | {"commit": commit}, lines, as_json=as_json)


def _upload(plan: PushPlan, message: str) -> str:
    """Upload what has changed and return the commit; bars are drawn on a terminal only."""
    from loba_tui.client.hub import push as pushing

    if not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    with ungated():  # the bars rewrite their lines; the names in them were checked
        return pushing.push(plan, clean(message, limit=500))


def _ask(plan: PushPlan, yes: bool) -> None:
    """Ask before something becomes public or is replaced."""
    reasons = []
    if plan.is_public and not plan.exists:
        reasons.append("everybody will be able to see it")
    if plan.replaced:
        reasons.append(
            f"{', '.join(plan.replaced)} will be replaced; the old ones stay in its history"
        )
    if reasons:
        because = " and ".join(reasons)
        question = f"{plan.repo_id}: {because}. Go on?"
        confirm(question, yes=yes, outcome="nothing was uploaded", because=because)


def _record(plan: PushPlan) -> dict[str, Any]:
    return {
        "repo": plan.repo_id,
        "url": plan.url,
        "public": plan.is_public,
        "exists": plan.exists,
        "revision": plan.revision,
        "files": [
            {"path": each.path, "size": each.size, "change": _change(plan, each.path)}
            for each in plan.uploads
        ],
        "notes": list(plan.notes),
    }


def _change(plan: PushPlan, path: str) -> str:
    if path in plan.new:
        return "new"
    return "replaced" if path in plan.replaced else "same"


def _lines(plan: PushPlan) -> list[str]:
    from loba_tui.core.units import show_size

    seen = "public" if plan.is_public else "private"
    state = "" if plan.exists else ", new"
    lines = [f"{plan.repo_id}@{plan.revision} ({seen}{state})"]
    lines += [
        f"{show_size(each.size):>9}  {_change(plan, each.path):9}{each.path}"
        for each in plan.uploads
    ]
    size = sum(each.size for each in plan.changed)
    lines.append(f"{show_size(size)} to upload")
    return [*lines, *(f"note: {note}" for note in plan.notes)]
