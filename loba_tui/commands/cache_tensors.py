"""`loba cache show|rm|prune|verify` of kept latents and embeddings, once it is clear that it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import typer

from loba_tui.client.cache import tensor_text as tensor_listing
from loba_tui.commands.options import echo_json
from loba_tui.core.associate.caches.tensors import prune as tensor_prune
from loba_tui.core.associate.caches.tensors import scan as tensor_scan
from loba_tui.core.associate.caches.tensors.layout import KINDS
from loba_tui.core.errors import CorruptError, InUseError, RecipeError
from loba_tui.core.text import clean, did_you_mean
from loba_tui.core.units import parse_age, parse_size, show_size

Confirm = Callable[[str], None]
"""Asks, and ends the command where the answer is no."""


def are_tensors(targets: Sequence[str]) -> bool:
    """Say whether a command is about kept tensors.

    Raises:
        RecipeError: It names repositories as well.
    """
    chosen = [tensor_scan.is_target(each) for each in targets]
    if any(chosen) and not all(chosen):
        raise RecipeError(
            "Repositories and kept tensors are not removed by one command.",
            "Name one sort at a time.",
        )
    return any(chosen)


def show(root: Path | None, target: str, *, as_json: bool) -> None:
    """Show one group, or several of them."""
    base = _required(root)
    records = [
        tensor_listing.show_record(base, group)
        for group in tensor_scan.find(tensor_scan.scan(base), [target])
    ]
    if as_json:
        echo_json(records[0] if len(records) == 1 else records)
        return
    for record in records:
        for line in tensor_listing.show_lines(record):
            typer.echo(line)


def remove(
    root: Path | None, targets: Sequence[str], *, dry_run: bool, confirm: Confirm, as_json: bool
) -> None:
    """Remove whole groups.

    Raises:
        InUseError: A run uses one of them; nothing is removed.
    """
    base = _required(root)
    plan = tensor_prune.plan_removal(tensor_scan.find(tensor_scan.scan(base), targets))
    if plan.in_use and not dry_run:
        names = ", ".join(clean(each.id) for each in plan.in_use)
        raise InUseError(
            f"Nothing was removed: a run uses {names}.", "Stop the run, or wait until it is done."
        )
    _carry_out(base, plan, dry_run=dry_run, confirm=confirm, as_json=as_json)


def prune(
    root: Path | None,
    kinds: Collection[str],
    *,
    unused: str | None,
    keep_under: str | None,
    dry_run: bool,
    confirm: Confirm,
    as_json: bool,
) -> None:
    """Remove entries by age or size, and what broken writes left."""
    base = _required(root)
    request = tensor_prune.Prune(
        now=time.time(),
        unused_seconds=None if unused is None else parse_age(unused),
        keep_bytes=None if keep_under is None else parse_size(keep_under),
    )
    plan = tensor_prune.plan_prune(tensor_scan.scan(base, kinds), request)
    if not dry_run:
        tensor_prune.tidy(base)
    _carry_out(base, plan, dry_run=dry_run, confirm=confirm, as_json=as_json)


def verify(root: Path | None, targets: Sequence[str], *, as_json: bool) -> None:
    """Read every entry again and compare it with its checksum.

    Raises:
        CorruptError: Some are damaged; a run that meets one makes it again.
    """
    base = _required(root)
    groups = tensor_scan.find(tensor_scan.scan(base), targets)
    good, damaged = 0, []
    for group in groups:
        for entry, problem in tensor_scan.verify(base, group):
            if problem is None:
                good += 1
                continue
            damaged.append({"id": group.id, "path": entry.path, "why": problem})
            if not as_json:
                typer.echo(f"{'damaged':9}{clean(group.id)} {entry.path}: {clean(problem)}")
    if as_json:
        echo_json({"good": good, "damaged": len(damaged), "files": damaged})
    else:
        typer.echo(f"{good} good" + (f", {len(damaged)} damaged" if damaged else ""))
    if damaged:
        raise CorruptError(
            f"{len(damaged)} entries are damaged.", "A run that meets one makes it again."
        )


def kinds_of(given: Sequence[str]) -> list[str]:
    """Return the kinds that were asked for.

    Raises:
        RecipeError: One is not a kind.
    """
    for each in given:
        if each not in KINDS:
            raise RecipeError(
                f"{clean(each, limit=60)} is no kind of what is kept.",
                did_you_mean(each, KINDS, f"Kinds: {', '.join(KINDS)}."),
            )
    return list(given)


def _carry_out(
    root: Path,
    plan: tensor_prune.Plan,
    *,
    dry_run: bool,
    confirm: Confirm,
    as_json: bool,
) -> None:
    if not as_json:
        for line in tensor_listing.plan_lines(plan):
            typer.echo(line, err=not dry_run)
    if dry_run or not plan.items:
        if as_json:
            echo_json(tensor_listing.plan_record(plan))
        elif not plan.items:
            typer.echo("nothing to remove")
        return
    confirm(f"Remove it for good and free {show_size(plan.frees)}?")
    freed = tensor_prune.execute(root, plan)
    if as_json:
        echo_json(tensor_listing.plan_record(plan, freed))
    else:
        typer.echo(f"freed {show_size(freed)}")


def _required(root: Path | None) -> Path:
    if root is None:
        raise RecipeError("Nothing is kept: LOBA_CACHE is off.", "Unset it, or name a folder.")
    return root
