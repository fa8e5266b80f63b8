"""From what users write to what it means in a cache, and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from loba_tui.core.associate.caches.hub.layout import KINDS, Cache, Repository, folder_of
from loba_tui.core.associate.caches.hub.requests import Plan, Target
from loba_tui.core.errors import InUseError, RecipeError, RefusedError
from loba_tui.core.text import clean, did_you_mean

_HASH = re.compile(r"[0-9a-f]{6,40}")


def refuse(plan: Plan, cache: Cache) -> None:
    """Raise for a plan that must not be executed.

    Raises:
        RefusedError: Something is pinned.
        InUseError: Something is in use.
    """
    if not plan.is_refused:
        return
    lines = [
        f"{target_name(cache, refusal.target)} stays: {clean(refusal.why)}."
        for refusal in plan.refusals
    ]
    if any(refusal.reason == "pinned" for refusal in plan.refusals):
        raise RefusedError(lines[0], "`loba cache unpin` takes a pin away.", lines=lines[1:])
    raise InUseError(lines[0], "Wait for it, or stop the run first.", lines=lines[1:])


def describe(cache: Cache, plan: Plan) -> list[str]:
    """Return what goes as a user knows it, plain text."""
    names = [target_name(cache, target) for target in plan.targets]
    if plan.leftovers:
        names.append(f"{plan.leftovers} leftovers")
    return names


def target_name(cache: Cache, target: Target) -> str:
    """Return ID, ID@REVISION or ID@REVISION:FILE of a target, plain text."""
    repository = cache.repository(target.folder)
    name = repository.name if repository is not None else target.folder
    name += f"@{target.commit[:12]}" if target.commit else ""
    return clean(f"{name}:{target.path}" if target.path else name, limit=200)


def parts_of(cache: Cache, targets: Sequence[Target]) -> list[Repository]:
    """Return the repositories of targets, each with the revisions that are meant only."""
    found = []
    for folder in dict.fromkeys(target.folder for target in targets):
        repository = cache.repository(folder)
        assert repository is not None
        commits = {target.commit for target in targets if target.folder == folder}
        if None not in commits:
            kept = tuple(each for each in repository.revisions if each.commit in commits)
            repository = replace(repository, revisions=kept)
        found.append(repository)
    return found


def find_targets(cache: Cache, wanted: Sequence[str], *, files: bool = False) -> list[Target]:
    """Return what users name: ID, ID@REVISION, or a revision's hash or its unique beginning.

    REVISION is a branch, a tag, or a hash or its beginning; with `files`, :FILE may follow it.

    Raises:
        RecipeError: Something is not there, or is not one thing only.
    """
    return [_find_part(cache, each.strip(), files=files) for each in wanted]


def _find_part(cache: Cache, wanted: str, *, files: bool) -> Target:
    is_uri, plain = wanted.startswith("hf://"), wanted.removeprefix("hf://")
    for plural, kind in KINDS.items():
        if is_uri and plain.startswith(f"{plural}/"):
            plain = f"{kind}/{plain.removeprefix(f'{plural}/')}"
    # A branch's name has no colon, and neither has an id.
    name, has_path, path = plain.partition(":")
    target = _find_target(cache, name)
    if not has_path:
        return target
    shown = clean(wanted, limit=160)
    if not files:
        raise RecipeError(f"{shown} names a file.", "Here it is ID or ID@REVISION.")
    if target.commit is None:
        raise RecipeError(
            f"{shown} does not say which revision's file.",
            f"Write {clean(name)}@REVISION:{clean(path, limit=80)}",
        )
    repository = cache.repository(target.folder)
    revision = repository.revision(target.commit) if repository is not None else None
    there = [file.path for file in revision.files] if revision is not None else []
    if path in there:
        return Target(target.folder, target.commit, path)
    inside = [each for each in there if each.startswith(f"{path.rstrip('/')}/")]
    if inside:
        hint = f"It is a folder; name its files, such as {clean(inside[0], limit=120)}."
    else:
        hint = did_you_mean(path, there, f"`loba cache show {clean(name)}`")
    raise RecipeError(f"{shown} is not in the cache.", hint)


def _find_target(cache: Cache, wanted: str) -> Target:
    name, has_revision, revision = wanted.partition("@")
    folder = folder_of(name)
    repository = next(
        (each for each in cache.repositories if each.folder.lower() == folder.lower()), None
    ) or cache.repository(name)
    shown = clean(wanted, limit=120)
    if repository is not None:
        if not has_revision:
            return Target(repository.folder)
        commit = repository.refs.get(revision)
        found = {commit} if commit else _commits(repository, revision)
        if len(found) == 1:
            return Target(repository.folder, found.pop())
        problem = "is several revisions" if found else "is not in the cache"
        raise RecipeError(
            f"{shown} {problem}.", f"`loba cache show {clean(repository.name)}` lists them."
        )
    matches = [
        Target(each.folder, commit)
        for each in cache.repositories
        for commit in _commits(each, wanted)
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RecipeError(f"{shown} is the beginning of several revisions.", "Write more of it.")
    raise RecipeError(
        f"{shown} is not in the cache.",
        did_you_mean(
            name, [each.name for each in cache.repositories], "`loba cache ls` lists what is."
        ),
    )


def _commits(repository: Repository, wanted: str) -> set[str]:
    if not _HASH.fullmatch(wanted.lower()):
        return set()
    commits = {revision.commit for revision in repository.revisions}
    return {commit for commit in commits if commit.startswith(wanted.lower())}
