"""The hub's repositories as a backend of `loba cache`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from loba_tui.client.cache import hub_text
from loba_tui.client.cache.backend import Listed, Outcome, PlannedRemoval, Shown, Verified
from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.hub.layout import Cache, Problem, Repository
from loba_tui.core.associate.caches.hub.requests import Prune, Removal
from loba_tui.core.associate.caches.hub.targets import find_targets, parts_of, refuse
from loba_tui.core.associate.caches.hub.verify import Checked
from loba_tui.core.errors import CorruptError
from loba_tui.core.text import clean
from loba_tui.core.units import show_size


class HubBackend:
    """A `CacheBackend` of repositories, whose removals go to a trash and can be undone."""

    def __init__(self, cache: HubCache) -> None:
        self._cache = cache
        self._repositories: list[Repository] = []
        self._foreign: list[Problem] = []

    def rows(self, *, revisions: bool) -> Iterator[Listed]:
        lister = hub_text.Lister(self._cache)
        for each in self._cache.repositories():
            if isinstance(each, Problem):
                self._foreign.append(each)
                continue
            self._repositories.append(each)
            for revision in each.revisions if revisions else (None,):
                yield lister.row(each, revision)

    def total(self, shown: Sequence[Mapping[str, Any]]) -> str:
        """Return what all repositories take, whichever of them were shown."""
        return hub_text.total_line(self._cache.complete(self._repositories))

    def warnings(self) -> Iterator[str]:
        """Yield what is no repository, and deletions that were interrupted."""
        for each in self._foreign:
            yield f"{clean(each.path)}: {clean(each.what)}"
        for entry in self._cache.trash():
            if entry.is_interrupted:
                yield f"A deletion was interrupted; `loba cache undo {entry.id}` puts it back."

    def show(self, target: str) -> Shown:
        found = self._cache.scan()
        (wanted,) = find_targets(found, [target])
        record = hub_text.repository_record(self._cache, found, wanted)
        return Shown(record, hub_text.repository_lines(record))

    def plan_removal(self, targets: Sequence[str], *, for_good: bool) -> PlannedRemoval:
        found = self._cache.scan()
        request = Removal(tuple(find_targets(found, targets, files=True)))
        return self._planned(found, request, for_good)

    def plan_prune(self, rules: Prune, *, for_good: bool) -> PlannedRemoval:
        """Plan a prune; without a rule it takes what is detached, incomplete or unreferenced."""
        flags = rules.detached or rules.incomplete or rules.unreferenced
        if rules.unused_seconds is None and rules.keep_bytes is None and not flags:
            rules = replace(rules, detached=True, incomplete=True, unreferenced=True)
        return self._planned(self._cache.scan(), rules, for_good)

    def _planned(self, found: Cache, request: Removal | Prune, for_good: bool) -> PlannedRemoval:
        plan = self._cache.plan(request, found)
        record = hub_text.plan_record(found, plan)

        def execute() -> Outcome:
            entry = self._cache.execute(plan) if plan.items else None
            if entry is None:
                return Outcome(record | {"trash": None}, "nothing to remove")
            if for_good:
                freed = self._cache.empty_trash([entry])
                return Outcome(record | {"trash": None}, f"freed {show_size(freed)}")
            return Outcome(
                record | {"trash": entry.id},
                f"moved {show_size(plan.frees)} to the trash as {entry.id}; "
                "`loba cache undo` brings it back, `loba cache trash empty` frees the space",
            )

        return PlannedRemoval(
            is_empty=not plan.items,
            record=record,
            lines=list(hub_text.plan_lines(found, plan)),
            question="Remove it for good?" if for_good else "Remove it?",
            refuse=lambda: refuse(plan, found),
            execute=execute,
        )

    def verify(
        self, targets: Sequence[str], *, tell: Callable[[str], None], warn: Callable[[str], None]
    ) -> Verified:
        found = self._cache.scan()
        chosen: Sequence[Repository] = found.repositories
        if targets:
            chosen = parts_of(found, find_targets(found, targets))
        results: list[Checked] = []
        for number, repository in enumerate(chosen, 1):
            size = show_size(repository.size)
            tell(f"[{number}/{len(chosen)}] {clean(repository.name)}  {size}")
            for checked in self._cache.verify(repository):
                results.append(checked)
                if checked.verdict != "good":
                    where = f"{clean(checked.repository)} {clean(checked.path)}"
                    warn(f"{checked.verdict:9}{where}: {clean(checked.why)}")
        counts = hub_text.verdict_counts(results)
        num_bad = counts["damaged"] + counts["missing"]
        error = CorruptError(
            f"{num_bad} files are not what they should be.",
            "Remove them with `loba cache rm ID@REVISION:FILE`, then `loba cache pull` it again.",
        )
        return Verified(
            record={**counts, "files": [each._asdict() for each in results]},
            summary=hub_text.verdict_line(counts),
            error=error if num_bad else None,
        )
