"""What a deletion would do, worked out in full before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from loba_tui.core.associate.caches.hub.layout import Blob, Cache, Payload, Repository
from loba_tui.core.associate.caches.hub.requests import (
    Item,
    Plan,
    Prune,
    Refusal,
    Removal,
    Surroundings,
    Target,
)
from loba_tui.core.associate.caches.hub.usage import RecipeUse, RunUse, Usage


def plan_removal(cache: Cache, wish: Removal, around: Surroundings) -> Plan:
    """Return what it means to remove some repositories and revisions."""
    targets = normal(cache, wish.targets)
    refused = [refusal for target in targets for refusal in refusals(cache, target, around)]
    return plan_of(cache, wish, targets, (), tuple(refused), around.usage)


def normal(cache: Cache, targets: Iterable[Target]) -> tuple[Target, ...]:
    """Return targets without what others hold.

    All files of a revision are the revision, and all revisions of a repository are the repository.
    """
    wanted: dict[str, set[tuple[str | None, str | None]]] = {}
    for target in targets:
        wanted.setdefault(target.folder, set()).add((target.commit, target.path))
    found = []
    for folder, parts in sorted(wanted.items()):
        repository = cache.repository(folder)
        if repository is None:
            continue
        gone, single = set(), []
        for revision in repository.revisions:
            there = {file.path for file in revision.files}
            named = {path for commit, path in parts if commit == revision.commit}
            if None in named or (there and there <= named):
                gone.add(revision.commit)
            else:
                files = sorted(path for path in named if path in there)
                single += [Target(folder, revision.commit, path) for path in files]
        commits = {revision.commit for revision in repository.revisions}
        if (None, None) in parts or (commits and commits <= gone):
            found.append(Target(folder))
        else:
            found += [Target(folder, commit) for commit in sorted(gone)]
            found += sorted(single, key=lambda each: (each.commit or "", each.path or ""))
    return tuple(found)


def refusals(cache: Cache, target: Target, around: Surroundings) -> list[Refusal]:
    """Return what speaks against removing a target."""
    repository = cache.repository(target.folder)
    assert repository is not None
    found = []
    for pin in sorted(around.pins, key=str):
        if pin.folder == target.folder and (
            pin.commit is None or target.commit is None or pin.commit == target.commit
        ):
            what = f"revision {pin.commit[:12]}" if pin.commit else "it"
            found.append(Refusal(target, "pinned", f"{what} is pinned"))
    live = [run for run in around.usage.runs_of(repository, target.commit) if run.state == "live"]
    found += [Refusal(target, "in use", f"run {run.name} works with it") for run in live]
    if around.is_fetching(target.folder):
        found.append(Refusal(target, "being fetched", "a file of it is being fetched just now"))
    return found


def plan_of(
    cache: Cache,
    wish: Removal | Prune,
    targets: Sequence[Target],
    leftovers: Sequence[Item],
    refused: tuple[Refusal, ...],
    usage: Usage,
) -> Plan:
    """Return the plan that removes targets, and leftovers beside them."""
    items: list[Item] = []
    shared: list[str] = []
    gone_links: set[str] = set()
    touched: set[str] = set()
    by_folder: dict[str, list[Target]] = {}
    for target in targets:
        by_folder.setdefault(target.folder, []).append(target)
    whole = {target.folder for target in targets if target.commit is None}
    for folder, parts in by_folder.items():
        repository = cache.repository(folder)
        assert repository is not None
        if folder in whole:
            items.append(Item(folder, repository.own_size))
            going: Iterable[Blob] = repository.blobs.values()
        else:
            going, kept = _remove_parts(repository, parts, items)
            shared += [f"{folder}/blobs/{blob.name}" for blob in kept]
            touched.update(blob.payload for blob in kept if blob.payload)
        for blob in going:
            if blob.payload is not None:
                gone_links.add(f"{folder}/blobs/{blob.name}")
                touched.add(blob.payload)
    for item in leftovers:
        if item.path.split("/")[0] not in whole:
            items.append(item)
            gone_links.add(item.path)
    there = {item.path for item in items}
    for name in sorted(touched):
        payload = cache.payloads.get(name)
        if payload is None or payload.path in there:
            continue
        if payload.references is not None and payload.references <= gone_links:
            items += payload_items(payload)
        else:
            shared.append(payload.path)
    breaks = _breaks(cache, targets, usage)
    return Plan(
        wish=wish,
        targets=tuple(targets),
        items=tuple(items),
        shared=tuple(shared),
        breaks_recipes=breaks[0],
        breaks_runs=breaks[1],
        refusals=refused,
        leftovers=len(leftovers),
    )


def payload_items(payload: Payload) -> list[Item]:
    """Return the paths of a content of the shared store."""
    return [Item(payload.path, payload.size), Item(f"{payload.path}.refs", 0)]


def _remove_parts(
    repository: Repository, parts: Sequence[Target], items: list[Item]
) -> tuple[list[Blob], list[Blob]]:
    """Add what goes with revisions and files; return the blobs that go and those others need."""
    folder = repository.folder
    removed = {each.commit for each in parts if each.path is None}
    files = {(each.commit, each.path) for each in parts if each.path is not None}
    items += [
        Item(f"{folder}/refs/{ref}", 0)
        for ref, commit in repository.refs.items()
        if commit in removed
    ]
    mine: set[str] = set()
    others: set[str] = set()
    for revision in repository.revisions:
        top = f"{folder}/snapshots/{revision.commit}"
        if revision.commit in removed:
            mine |= revision.blobs
            direct = sum(file.size for file in revision.files if file.blob is None)
            items.append(Item(top, direct))
            continue
        for file in revision.files:
            goes = (revision.commit, file.path) in files
            if goes:
                items.append(Item(f"{top}/{file.path}", 0 if file.blob else file.size))
            if file.blob is not None:
                (mine if goes else others).add(file.blob)
    for path in repository.extra:
        if path.rpartition("/")[2].removesuffix(".json") in removed:
            items.append(Item(f"{folder}/{path}", 0))
    if not repository.is_readable:
        # What an unreadable revision links to is not known, so every content stays.
        others |= mine
    blobs = [repository.blobs[name] for name in sorted(mine) if name in repository.blobs]
    going = [blob for blob in blobs if blob.name not in others]
    items += [
        Item(f"{folder}/blobs/{blob.name}", 0 if blob.payload else blob.size) for blob in going
    ]
    return going, [blob for blob in blobs if blob.name in others]


def _breaks(
    cache: Cache, targets: Sequence[Target], usage: Usage
) -> tuple[tuple[RecipeUse, ...], tuple[RunUse, ...]]:
    recipes: dict[RecipeUse, None] = {}
    runs: dict[RunUse, None] = {}
    for target in targets:
        repository = cache.repository(target.folder)
        assert repository is not None
        recipes.update(dict.fromkeys(usage.recipes_of(repository, target.commit)))
        needed = usage.runs_of(repository, target.commit)
        runs.update(dict.fromkeys(run for run in needed if run.state != "finished"))
    return tuple(recipes), tuple(runs)
