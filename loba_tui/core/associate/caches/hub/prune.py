"""Work out what a prune takes: the old, the lost, the broken, and what exceeds a budget."""

from __future__ import annotations

from collections.abc import Iterable

from loba_tui.core.associate.caches.hub.layout import Cache, Repository, Revision
from loba_tui.core.associate.caches.hub.plan import normal, payload_items, plan_of
from loba_tui.core.associate.caches.hub.plan import refusals as refusals_of
from loba_tui.core.associate.caches.hub.requests import (
    Item,
    Plan,
    Prune,
    Refusal,
    Surroundings,
    Target,
    last_wanted,
)
from loba_tui.core.associate.caches.hub.usage import Usage


def plan_prune(cache: Cache, wish: Prune, around: Surroundings) -> Plan:
    """Return what goes by the rules of a prune; what must not go is passed over."""
    wanted: list[Target] = []
    for repository in cache.repositories:
        for revision in repository.revisions:
            age = wish.now - last_wanted(repository, revision, around.usage)
            is_old = wish.unused_seconds is not None and age >= wish.unused_seconds
            is_lost = (
                wish.detached
                and not revision.refs
                and not _is_needed(repository, revision, around.usage)
            )
            if is_old or is_lost:
                wanted.append(Target(repository.folder, revision.commit))
    allowed, refusals = _allowed(cache, normal(cache, wanted), wish, around)
    leftovers = _leftovers(cache, wish, around)
    if wish.keep_bytes is not None:
        plan = plan_of(cache, wish, allowed, leftovers, (), around.usage)
        over = cache.size - plan.frees - wish.keep_bytes
        oldest = sorted(cache.repositories, key=lambda each: last_wanted(each, None, around.usage))
        for repository in oldest:
            if over <= 0:
                break
            target = Target(repository.folder)
            if target in allowed or _refused(cache, target, wish, around, refusals):
                continue
            allowed = [each for each in allowed if each.folder != target.folder] + [target]
            # A repository whose contents others share frees less than its size.
            plan = plan_of(cache, wish, allowed, leftovers, (), around.usage)
            over = cache.size - plan.frees - wish.keep_bytes
    return plan_of(cache, wish, sorted(allowed, key=str), leftovers, tuple(refusals), around.usage)


def _allowed(
    cache: Cache, targets: Iterable[Target], wish: Prune, around: Surroundings
) -> tuple[list[Target], list[Refusal]]:
    refusals: list[Refusal] = []
    allowed = []
    for target in targets:
        if not _refused(cache, target, wish, around, refusals):
            allowed.append(target)
            continue
        repository = cache.repository(target.folder)
        if target.commit is None and repository is not None:
            # One pinned revision does not keep the others.
            single = [Target(target.folder, revision.commit) for revision in repository.revisions]
            allowed += [each for each in single if not _refused(cache, each, wish, around, [])]
    return allowed, refusals


def _refused(
    cache: Cache, target: Target, wish: Prune, around: Surroundings, refusals: list[Refusal]
) -> bool:
    found = refusals_of(cache, target, around)
    repository = cache.repository(target.folder)
    assert repository is not None
    revision = repository.revision(target.commit) if target.commit else None
    modified = revision.modified if revision else repository.modified
    if wish.now - modified < wish.grace_seconds:
        found.append(Refusal(target, "too new", "it was fetched only just now"))
    refusals += [refusal for refusal in found if refusal not in refusals]
    return bool(found)


def _is_needed(repository: Repository, revision: Revision, usage: Usage) -> bool:
    runs, recipes = usage.runs_of, usage.recipes_of
    return bool(runs(repository, revision.commit) or recipes(repository, revision.commit))


def _leftovers(cache: Cache, wish: Prune, around: Surroundings) -> list[Item]:
    found = []

    def is_due(modified: float) -> bool:
        return wish.now - modified >= wish.grace_seconds

    for repository in cache.repositories:
        incomplete = repository.incomplete if wish.incomplete else ()
        orphans = repository.unreferenced if wish.unreferenced else ()
        due = [blob for blob in (*incomplete, *orphans) if is_due(blob.modified)]
        if due and not around.is_fetching(repository.folder):
            found += [
                Item(f"{repository.folder}/blobs/{blob.name}", 0 if blob.payload else blob.size)
                for blob in due
            ]
    if wish.unreferenced:
        going = {item.path for item in found}
        for payload in cache.payloads.values():
            known = payload.references
            if known is not None and known <= going and is_due(payload.modified):
                found += payload_items(payload)
    return found
