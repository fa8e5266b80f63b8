"""Requests to remove something from a cache, and the plans that fulfil them, as plain records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from loba_tui.core.associate.caches.hub.layout import Repository, Revision
from loba_tui.core.associate.caches.hub.usage import RecipeUse, RunUse, Usage

# What a download in progress has for a moment looks like a leftover; an hour old, it is one.
GRACE_SECONDS = 3600.0


@dataclass(frozen=True, order=True)
class Target:
    """A repository, one revision of it, or one file of a revision."""

    folder: str
    commit: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class Removal:
    """A request: these repositories, revisions and files are to go."""

    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Prune:
    """A request: whatever is of no more use is to go, by these rules.

    Attributes:
        unused_seconds: Revisions that were neither used nor fetched for so long.
        keep_bytes: The least recently used repositories, until the cache is this small.
        detached: Revisions on no branch or tag that no known run or recipe needs.
        incomplete: What broken downloads left.
        unreferenced: Contents that no revision links to.
        now: Wall time that ages are counted from.
        grace_seconds: Nothing younger goes.
    """

    now: float
    unused_seconds: float | None = None
    keep_bytes: int | None = None
    detached: bool = False
    incomplete: bool = False
    unreferenced: bool = False
    grace_seconds: float = GRACE_SECONDS


class Item(NamedTuple):
    """A path that is moved away; `size` is what that frees."""

    path: str
    size: int


class Refusal(NamedTuple):
    """Why something is not removed."""

    target: Target
    reason: Literal["pinned", "in use", "being fetched", "too new"]
    why: str


@dataclass(frozen=True)
class Plan:
    """Plan of a removal, with the bytes that it frees and what it breaks.

    Attributes:
        request: What was asked for; the plan is worked out again from it before it is executed.
        items: Paths in the order in which they are moved: what points before what is pointed at.
        shared: Contents that stay because others need them; an undo keeps a hold on them.
        breaks_recipes: Recipes that would have to fetch their model again.
        breaks_runs: Runs that are not finished and could no longer resume without fetching.
        refusals: Why the plan cannot be executed; for a prune, what it leaves alone.
        leftovers: How many incomplete and unreferenced contents go.
    """

    request: Removal | Prune
    targets: tuple[Target, ...] = ()
    items: tuple[Item, ...] = ()
    shared: tuple[str, ...] = ()
    breaks_recipes: tuple[RecipeUse, ...] = ()
    breaks_runs: tuple[RunUse, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    leftovers: int = 0

    @property
    def frees(self) -> int:
        """Return the bytes that are free once the trash is emptied."""
        return sum(item.size for item in self.items)

    @property
    def is_refused(self) -> bool:
        """Say whether something that was named cannot go; a prune skips it instead."""
        return isinstance(self.request, Removal) and bool(self.refusals)

    def moves_same_as(self, other: Plan) -> bool:
        """Say whether two plans move the same things."""
        return set(self.items) == set(other.items) and set(self.shared) == set(other.shared)


@dataclass(frozen=True)
class PlanContext:
    """Facts that a plan takes into account beside the cache itself."""

    usage: Usage
    pins: frozenset[Target]
    is_fetching: Callable[[str], bool]


def last_wanted(repository: Repository, revision: Revision | None, usage: Usage) -> float:
    """Return when something was last used or fetched, whichever is later."""
    if revision is None:
        return max(usage.last_used(repository) or 0.0, repository.modified)
    return max(usage.last_used(repository, revision.commit) or 0.0, revision.modified)
