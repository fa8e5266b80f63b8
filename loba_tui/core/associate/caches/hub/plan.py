"""Work out in full what a deletion would do, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from loba_tui.core.associate.caches.hub.layout import Blob, Cache, Payload, Repository
from loba_tui.core.associate.caches.hub.requests import (
    Item,
    Plan,
    PlanContext,
    Prune,
    Refusal,
    Removal,
    Target,
    last_wanted,
)
from loba_tui.core.associate.caches.hub.usage import RecipeUse, RunUse, Usage


def plan_removal(cache: Cache, request: Removal, context: PlanContext) -> Plan:
    """Return what it means to remove some repositories and revisions."""
    targets = _normalized(cache, request.targets)
    refused = [refusal for target in targets for refusal in _refusals(cache, target, context)]
    return _plan_of(cache, request, targets, (), tuple(refused), context.usage)


def _normalized(cache: Cache, targets: Iterable[Target]) -> tuple[Target, ...]:
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


def _refusals(cache: Cache, target: Target, context: PlanContext) -> list[Refusal]:
    repository = cache.repository(target.folder)
    assert repository is not None
    found = []
    for pin in sorted(context.pins, key=str):
        if pin.folder == target.folder and (
            pin.commit is None or target.commit is None or pin.commit == target.commit
        ):
            what = f"revision {pin.commit[:12]}" if pin.commit else "it"
            found.append(Refusal(target, "pinned", f"{what} is pinned"))
    live = [run for run in context.usage.runs_of(repository, target.commit) if run.state == "live"]
    found += [Refusal(target, "in use", f"run {run.name} works with it") for run in live]
    if context.is_fetching(target.folder):
        found.append(Refusal(target, "being fetched", "a file of it is being fetched just now"))
    return found


def _plan_of(
    cache: Cache,
    request: Removal | Prune,
    targets: Sequence[Target],
    leftovers: Sequence[Item],
    refused: tuple[Refusal, ...],
    usage: Usage,
) -> Plan:
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
            items += _payload_items(payload)
        else:
            shared.append(payload.path)
    breaks = _breaks(cache, targets, usage)
    return Plan(
        request=request,
        targets=tuple(targets),
        items=tuple(items),
        shared=tuple(shared),
        breaks_recipes=breaks[0],
        breaks_runs=breaks[1],
        refusals=refused,
        leftovers=len(leftovers),
    )


def _blob_item(repository: Repository, blob: Blob) -> Item:
    """Return the path of a blob; a link into the shared store frees nothing itself."""
    return Item(f"{repository.folder}/blobs/{blob.name}", 0 if blob.payload else blob.size)


def _payload_items(payload: Payload) -> list[Item]:
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
    items += [_blob_item(repository, blob) for blob in going]
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


def plan_prune(cache: Cache, request: Prune, context: PlanContext) -> Plan:
    """Return what goes by the rules of a prune; what must not go is skipped."""
    return _Pruning(cache, request, context).plan()


class _Pruning:
    """Works out one prune: the old, the lost, the broken, and what exceeds a budget."""

    def __init__(self, cache: Cache, request: Prune, context: PlanContext) -> None:
        self._cache, self._request, self._context = cache, request, context
        self._usage = context.usage
        self._refused: list[Refusal] = []

    def plan(self) -> Plan:
        allowed = self._allowed(_normalized(self._cache, self._old_and_lost()))
        leftovers = self._leftovers()
        if self._request.keep_bytes is not None:
            allowed = self._down_to(self._request.keep_bytes, allowed, leftovers)
        return self._plan_of(sorted(allowed, key=str), leftovers)

    def _old_and_lost(self) -> list[Target]:
        request, found = self._request, []
        for repository in self._cache.repositories:
            for revision in repository.revisions:
                age = request.now - last_wanted(repository, revision, self._usage)
                is_old = request.unused_seconds is not None and age >= request.unused_seconds
                is_lost = (
                    request.detached
                    and not revision.refs
                    and not self._usage.runs_of(repository, revision.commit)
                    and not self._usage.recipes_of(repository, revision.commit)
                )
                if is_old or is_lost:
                    found.append(Target(repository.folder, revision.commit))
        return found

    def _allowed(self, targets: Iterable[Target]) -> list[Target]:
        allowed = []
        for target in targets:
            if self._may_go(target):
                allowed.append(target)
                continue
            repository = self._cache.repository(target.folder)
            if target.commit is None and repository is not None:
                # One pinned revision does not keep the others.
                single = [Target(target.folder, each.commit) for each in repository.revisions]
                allowed += [each for each in single if not self._against(each)]
        return allowed

    def _down_to(
        self, keep_bytes: int, allowed: list[Target], leftovers: Sequence[Item]
    ) -> list[Target]:
        """Return targets with the least recently used added until no more than this stays."""
        oldest = sorted(
            self._cache.repositories, key=lambda each: last_wanted(each, None, self._usage)
        )
        for repository in oldest:
            # Planned anew each time: one whose contents others share frees less than its size.
            plan = self._plan_of(allowed, leftovers)
            if self._cache.size - plan.frees <= keep_bytes:
                break
            target = Target(repository.folder)
            if target not in allowed and self._may_go(target):
                allowed = [each for each in allowed if each.folder != target.folder] + [target]
        return allowed

    def _may_go(self, target: Target) -> bool:
        """Say whether nothing speaks against removing a target, and note what does."""
        found = self._against(target)
        self._refused += [refusal for refusal in found if refusal not in self._refused]
        return not found

    def _against(self, target: Target) -> list[Refusal]:
        found = _refusals(self._cache, target, self._context)
        repository = self._cache.repository(target.folder)
        assert repository is not None
        revision = repository.revision(target.commit) if target.commit else None
        if not self._is_due(revision.modified if revision else repository.modified):
            found.append(Refusal(target, "too new", "it was fetched only just now"))
        return found

    def _leftovers(self) -> list[Item]:
        found = []
        for repository in self._cache.repositories:
            incomplete = repository.incomplete if self._request.incomplete else ()
            orphans = repository.unreferenced if self._request.unreferenced else ()
            due = [blob for blob in (*incomplete, *orphans) if self._is_due(blob.modified)]
            if due and not self._context.is_fetching(repository.folder):
                found += [_blob_item(repository, blob) for blob in due]
        if self._request.unreferenced:
            going = {item.path for item in found}
            for payload in self._cache.payloads.values():
                known = payload.references
                if known is not None and known <= going and self._is_due(payload.modified):
                    found += _payload_items(payload)
        return found

    def _is_due(self, modified: float) -> bool:
        return self._request.now - modified >= self._request.grace_seconds

    def _plan_of(self, targets: Sequence[Target], leftovers: Sequence[Item]) -> Plan:
        refused = tuple(self._refused)
        return _plan_of(self._cache, self._request, targets, leftovers, refused, self._usage)
