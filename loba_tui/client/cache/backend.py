"""The protocol of `loba cache`: the hub's repositories and kept tensors answer the same questions.

A target belongs to one backend. What is removed is planned first, shown, and only then executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from loba_tui.core.associate.caches.hub.query import Row
from loba_tui.core.errors import LobaError

Listed = tuple[Row, dict[str, Any]]
"""What a thing is chosen and sorted by, and its record."""


@dataclass(frozen=True)
class PruneRules:
    """By which rules something is of no more use.

    Attributes:
        now: Wall time that ages are counted from.
        unused_seconds: What was neither used nor fetched for so long.
        keep_bytes: The least recently used, until no more is left.
        detached: Revisions on no branch or tag, which no run or recipe needs.
        incomplete: What broken downloads left.
        unreferenced: Contents that no revision links to.
    """

    now: float
    unused_seconds: float | None = None
    keep_bytes: int | None = None
    detached: bool = False
    incomplete: bool = False
    unreferenced: bool = False


class Outcome(NamedTuple):
    """What was done, as JSON holds it and as a sentence."""

    record: Mapping[str, Any]
    text: str


class Shown(NamedTuple):
    """Everything known of a target, as JSON holds it and as lines."""

    record: Any
    lines: Iterator[str]


class Verified(NamedTuple):
    """The result of a check; `error` says what to do where something is damaged."""

    record: Mapping[str, Any]
    summary: str
    error: LobaError | None


class PlannedRemoval(Protocol):
    """A removal that was worked out and not done yet."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to remove."""
        ...

    def record(self) -> Mapping[str, Any]:
        """Return the plan as JSON holds it."""
        ...

    def lines(self) -> Iterator[str]:
        """Yield the plan for reading: what goes, what that frees, and what it breaks."""
        ...

    def refuse(self) -> None:
        """Raise where something that was named must not go.

        Raises:
            RefusedError: It is pinned.
            InUseError: It is in use.
        """
        ...

    def question(self, *, for_good: bool) -> str:
        """Return what the user is asked before it is done."""
        ...

    def execute(self, *, for_good: bool) -> Outcome:
        """Do it; `for_good` frees the space at once where there would be an undo.

        Raises:
            LobaError: It cannot be done, or things are no longer as they were planned for.
        """
        ...


class CacheBackend(Protocol):
    """One store of the cache, as `loba cache` speaks to it."""

    def rows(self, *, revisions: bool) -> Iterator[Listed]:
        """Yield what is there, each as soon as it is read; `revisions` gives each a row."""
        ...

    def total(self, shown: Sequence[Mapping[str, Any]]) -> str:
        """Return what there is in all, after `rows` came to its end; "" where nothing is."""
        ...

    def warnings(self) -> Iterator[str]:
        """Yield what `rows` met that is not as it should be."""
        ...

    def show(self, target: str) -> Shown:
        """Return everything known of a target.

        Raises:
            RecipeError: There is no such thing.
        """
        ...

    def plan_removal(self, targets: Sequence[str]) -> PlannedRemoval:
        """Plan to remove what is named.

        Raises:
            RecipeError: Something of it is not there.
        """
        ...

    def plan_prune(self, rules: PruneRules) -> PlannedRemoval:
        """Plan to remove what is of no more use.

        Raises:
            RecipeError: A rule means nothing here.
        """
        ...

    def verify(
        self, targets: Sequence[str], *, tell: Callable[[str], None], warn: Callable[[str], None]
    ) -> Verified:
        """Read contents again and compare them with their checksums.

        Args:
            targets: What to check; all of it where none is named.
            tell: Told what is being read.
            warn: Told what is not good, as soon as it is found.

        Raises:
            RecipeError: There is no such thing.
        """
        ...
