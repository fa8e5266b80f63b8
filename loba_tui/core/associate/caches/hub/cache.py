"""The hub's cache on disk: scan, then plan, then execute; with trash, undo and pins beside it.

All of it is free of torch and of the hub's client, so that listing a cache takes milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from loba_tui.core.associate.caches.hub import scan as hub_scan
from loba_tui.core.associate.caches.hub import store as hub_store
from loba_tui.core.associate.caches.hub.journal import Entry
from loba_tui.core.associate.caches.hub.layout import Cache, Problem, Repository
from loba_tui.core.associate.caches.hub.paths import client_is_busy, locked, open_folder
from loba_tui.core.associate.caches.hub.pins import read_pins, write_pins
from loba_tui.core.associate.caches.hub.plan import plan_prune, plan_removal
from loba_tui.core.associate.caches.hub.requests import Plan, PlanContext, Prune, Removal, Target
from loba_tui.core.associate.caches.hub.targets import describe, refuse
from loba_tui.core.associate.caches.hub.trash import Restored, Trash
from loba_tui.core.associate.caches.hub.usage import NO_USAGE, Usage, usage_of
from loba_tui.core.associate.caches.hub.verify import Checked, verify
from loba_tui.core.errors import InUseError, RecipeError, ResourceError
from loba_tui.core.run.directory import Ledger
from loba_tui.core.text import clean
from loba_tui.core.user_folders import hub_cache_folder

STATE_SUFFIX = ".loba"


class HubCache:
    """One cache folder, and what is kept beside it: scan, then plan, then execute.

        cache = HubCache.of_user(os.environ)
        found = cache.scan()
        targets = find_targets(found, ["runwayml/stable-diffusion-v1-5@main"])
        plan = cache.plan(Removal(tuple(targets)), found)   # plan.frees, plan.breaks_runs
        entry = cache.execute(plan)                         # moved into the trash
        cache.undo(entry.id)                                # or: cache.empty_trash([entry])

    Args:
        root: The cache, as HF_HUB_CACHE names it; it need not exist.

    Raises:
        RecipeError: From what changes something, where there is no such cache folder.
        InUseError: From the same, where another process changes the cache at this moment.
        CorruptError: From `pins` and what heeds them, where the file of pins cannot be read.
    """

    def __init__(self, root: Path, usage: Usage = NO_USAGE) -> None:
        # The cache itself is often a link to a larger disk; below it no link is followed.
        self.root = Path(os.path.realpath(root))
        self.usage = usage
        self._state = state_folder(self.root)
        self._pins = self._state / "pins.json"
        self._trash = Trash(self.root, self._state / "trash")

    @classmethod
    def of_user(cls, environ: Mapping[str, str], recipes: Iterable[Path] = ()) -> HubCache:
        """Return the user's cache with all that is known of runs, and of recipes given by path."""
        return cls(hub_cache_folder(environ), usage_of(Ledger.of_user(environ), recipes))

    def scan(self) -> Cache:
        """Return everything that lies in the cache."""
        return hub_scan.scan(self.root)

    def complete(self, repositories: Sequence[Repository]) -> Cache:
        """Return the cache of repositories that were scanned one by one."""
        found = tuple(repositories)
        return Cache(found, hub_store.scan_store(self.root, found))

    def repositories(self) -> Iterator[Repository | Problem]:
        """Yield repositories, and what is none, each as soon as it is read."""
        return hub_scan.scan_repositories(self.root)

    def verify(self, repository: Repository) -> Iterator[Checked]:
        """Check every content of a repository against its checksum."""
        return verify(self.root, repository)

    def pins(self) -> frozenset[Target]:
        """Return what is pinned."""
        return read_pins(self._pins)

    def pin(self, targets: Sequence[Target], *, keep: bool = True) -> None:
        """Pin repositories and revisions, or take their pins away.

        Raises:
            RecipeError: A target is a single file.
        """
        if any(target.path is not None for target in targets):
            raise RecipeError("Only repositories and revisions can be pinned, not single files.")
        with self._locked():
            pins = self.pins()
            write_pins(self._pins, pins | set(targets) if keep else pins - set(targets))

    def plan(self, request: Removal | Prune, cache: Cache | None = None) -> Plan:
        """Return what a request would do; nothing is touched."""
        context = PlanContext(self.usage, self.pins(), self._is_fetching)
        cache = cache if cache is not None else self.scan()
        if isinstance(request, Removal):
            return plan_removal(cache, request, context)
        return plan_prune(cache, request, context)

    def execute(self, plan: Plan) -> Entry | None:
        """Move what a plan removes into the trash; None where there is nothing to move.

        The plan is worked out once more under the cache's lock: what came to need a content since
        then is not lost.

        Raises:
            RefusedError: Something is pinned.
            InUseError: Something is in use, or the cache is no longer what was planned for.
            ResourceError: The cache or the trash cannot be written.
        """
        with self._locked():
            self._trash.recover()
            cache = self.scan()
            current = self.plan(plan.request, cache)
            refuse(current, cache)
            if not current.moves_same_as(plan):
                raise InUseError("The cache changed since this was planned.", "Plan it again.")
            if not current.items:
                return None
            what = describe(cache, current)
            hold = partial(hold_repository, self.root, alone=True)
            entry = self._trash.take(current, what, hold)
            self._return_what_is_linked_again(entry, current)
        return entry

    def trash(self) -> list[Entry]:
        """Return the deletions that can be undone, oldest first."""
        return self._trash.entries()

    def trash_size(self, entries: Sequence[Entry]) -> int:
        """Return the bytes that emptying entries frees."""
        return self._trash.measure(entries)

    def undo(self, entry_id: str | None = None) -> Restored:
        """Bring back a deletion, the newest where none is named.

        Raises:
            RecipeError: There is no such deletion.
        """
        with self._locked():
            for restored in self._trash.recover():
                if entry_id is None or restored.entry.id.startswith(entry_id):
                    return restored
            return self._trash.restore(self.find_entry(entry_id))

    def empty_trash(self, entries: Sequence[Entry]) -> int:
        """Remove deletions for good and return the bytes that this freed."""
        with self._locked():
            self._trash.recover()
            known = {entry.id: entry for entry in self._trash.entries()}
            return self._trash.empty([known[each.id] for each in entries if each.id in known])

    def find_entry(self, entry_id: str | None) -> Entry:
        """Return a deletion by its id or the beginning of it; None is the newest.

        Raises:
            RecipeError: There is none, or there are several.
        """
        entries = self.trash()
        if entry_id is None:
            if not entries:
                raise RecipeError("The trash is empty; there is nothing to undo.")
            return entries[-1]
        found = [entry for entry in entries if entry.id.startswith(entry_id)]
        if len(found) != 1:
            raise RecipeError(
                f"There is no deletion {clean(entry_id, limit=60)}.",
                "`loba cache trash ls` lists them.",
            )
        return found[0]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self.root.is_dir():
            raise RecipeError(
                f"There is no cache at {clean(self.root)}.", "HF_HUB_CACHE or HF_HOME name it."
            )
        with locked(self._state / "lock", what=f"The cache {clean(self.root)}"):
            yield

    def _is_fetching(self, folder: str) -> bool:
        with ExitStack() as stack:
            try:
                root = stack.enter_context(open_folder(self.root))
            except OSError:
                return False
            return client_is_busy(root, folder)

    def _return_what_is_linked_again(self, entry: Entry, plan: Plan) -> None:
        """Give back contents that the client linked to while they were moved.

        It looks whether a content is there before it takes the lock under which it links to it.
        """
        moved = {item.path for item in plan.items}
        for folder in {target.folder for target in plan.targets if target.commit is not None}:
            repository = hub_scan.scan_repository(self.root, folder)
            needed = {f"{folder}/blobs/{name}" for name in repository.referenced}
            lost = needed & moved
            if lost:
                self._trash.give_back(entry, lost)


def state_folder(root: Path) -> Path:
    """Return the folder beside a cache that holds its trash, pins and locks."""
    return root.with_name(f"{root.name}{STATE_SUFFIX}")


@contextmanager
def hold_repository(root: Path, folder: str, *, alone: bool = False) -> Iterator[None]:
    """Keep a repository from being deleted while it is fetched or read.

    With `alone` it is held against everybody, as a deletion does, and without waiting.

    Raises:
        InUseError: It is being deleted, or with `alone` it is in use.
        ResourceError: With `alone`, the folder beside the cache cannot be written.
    """
    root = Path(os.path.realpath(root))
    path = state_folder(root) / "in-use" / f"{folder}.lock"
    name = clean(folder, limit=120)
    with ExitStack() as stack:
        try:
            if alone:
                stack.enter_context(locked(path, what=name, patience=0.0))
            else:
                stack.enter_context(locked(path, what=name, shared=True))
        except ResourceError:
            # A cache that cannot be written can be read all the same, and nothing deletes from it.
            if alone:
                raise
        yield
