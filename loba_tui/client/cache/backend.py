"""The protocol of `loba cache`: the hub's repositories and kept tensors answer the same questions.

A target belongs to one backend. What is removed is planned first, shown, and only then executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from loba_tui.core.associate.caches.hub.query import Row
from loba_tui.core.associate.caches.hub.requests import Prune
from loba_tui.core.errors import LobaError

Listed = tuple[Row, dict[str, Any]]
"""What a thing is chosen and sorted by, and its record."""


class Shown(NamedTuple):
    """Everything known of a target, as JSON holds it and as lines."""

    record: Any
    lines: Iterator[str]


class Outcome(NamedTuple):
    """Result of a command, as JSON holds it and as a sentence."""

    record: Mapping[str, Any]
    text: str


class Verified(NamedTuple):
    """The result of a check; `error` says what to do where something is damaged."""

    record: Mapping[str, Any]
    summary: str
    error: LobaError | None


@dataclass(frozen=True)
class PlannedRemoval:
    """A removal that was worked out and not done yet.

    Attributes:
        lines: The plan for reading: what goes, what that frees, and what it breaks.
        refuse: Raises where something that was named is pinned or in use.
        execute: Does it; raises where things are no longer as they were planned for.
    """

    is_empty: bool
    record: Mapping[str, Any]
    lines: Sequence[str]
    question: str
    refuse: Callable[[], None]
    execute: Callable[[], Outcome]


class CacheBackend(Protocol):
    """One store of the cache. What takes targets raises RecipeError for one that is not there."""

    def rows(self, *, revisions: bool) -> Iterator[Listed]:
        """Yield what is there, each as soon as it is read; `revisions` gives each a row."""

    def total(self, shown: Sequence[Mapping[str, Any]]) -> str:
        """Return what there is in all, after `rows` came to its end; "" where nothing is."""

    def warnings(self) -> Iterator[str]:
        """Yield what `rows` met that is not as it should be."""

    def show(self, target: str) -> Shown:
        """Return everything known of a target."""

    def plan_removal(self, targets: Sequence[str], *, for_good: bool) -> PlannedRemoval:
        """Plan to remove what is named; `for_good` frees the space where there would be an undo."""

    def plan_prune(self, rules: Prune, *, for_good: bool) -> PlannedRemoval:
        """Plan to remove what is of no more use; RecipeError where a rule means nothing here."""

    def verify(
        self, targets: Sequence[str], *, tell: Callable[[str], None], warn: Callable[[str], None]
    ) -> Verified:
        """Read contents again, all where none is named, and compare them with their checksums.

        `tell` is told what is being read, and `warn` what is not good as soon as it is found.
        """
