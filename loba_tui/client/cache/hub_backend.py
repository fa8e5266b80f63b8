"""The hub's repositories as a backend of `loba cache`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loba_tui.client.cache import hub_text
from loba_tui.client.cache.backend import Listed, Outcome, PruneRules, Shown, Verified
from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.hub.layout import Cache, Problem, Repository
from loba_tui.core.associate.caches.hub.requests import Plan, Prune, Removal
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
        """Yield a row for each repository, or for each of its revisions."""
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
        """Return a repository's revisions and files, what is broken in it, and who needs it."""
        found = self._cache.scan()
        (wanted,) = find_targets(found, [target])
        record = hub_text.repository_record(self._cache, found, wanted)
        return Shown(record, hub_text.repository_lines(record))

    def plan_removal(self, targets: Sequence[str]) -> HubRemoval:
        """Plan to remove repositories, revisions and files."""
        found = self._cache.scan()
        return self._planned(found, Removal(tuple(find_targets(found, targets, files=True))))

    def plan_prune(self, rules: PruneRules) -> HubRemoval:
        """Plan a prune; without a rule it takes what is detached, incomplete or unreferenced."""
        flags = (rules.detached, rules.incomplete, rules.unreferenced)
        if rules.unused_seconds is None and rules.keep_bytes is None and not any(flags):
            flags = (True, True, True)
        request = Prune(rules.now, rules.unused_seconds, rules.keep_bytes, *flags)
        return self._planned(self._cache.scan(), request)

    def _planned(self, found: Cache, request: Removal | Prune) -> HubRemoval:
        return HubRemoval(self._cache, found, self._cache.plan(request, found))

    def verify(
        self, targets: Sequence[str], *, tell: Callable[[str], None], warn: Callable[[str], None]
    ) -> Verified:
        """Check files against the checksums that their contents are named by."""
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


@dataclass(frozen=True)
class HubRemoval:
    """A removal from the hub's cache that was worked out and not done yet."""

    cache: HubCache
    found: Cache
    plan: Plan

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to remove."""
        return not self.plan.items

    def record(self) -> dict[str, Any]:
        """Return the plan as JSON holds it."""
        return hub_text.plan_record(self.found, self.plan)

    def lines(self) -> Iterator[str]:
        """Yield the plan for reading."""
        return hub_text.plan_lines(self.found, self.plan)

    def refuse(self) -> None:
        """Raise where something that was named is pinned or in use."""
        refuse(self.plan, self.found)

    def question(self, *, for_good: bool) -> str:
        """Return what the user is asked."""
        return "Remove it for good?" if for_good else "Remove it?"

    def execute(self, *, for_good: bool) -> Outcome:
        """Move it to the trash, and empty that entry where it goes for good."""
        entry = self.cache.execute(self.plan) if self.plan.items else None
        if entry is None:
            return Outcome(self.record() | {"trash": None}, "nothing to remove")
        if for_good:
            freed = self.cache.empty_trash([entry])
            return Outcome(self.record() | {"trash": None}, f"freed {show_size(freed)}")
        return Outcome(
            self.record() | {"trash": entry.id},
            f"moved {show_size(self.plan.frees)} to the trash as {entry.id}; "
            "`loba cache undo` brings it back, `loba cache trash empty` frees the space",
        )
