"""The tree of the Cache screen: components in memory, repositories, revisions and files.

Everything is read in a thread; which rows are shown (filter, order, what is open) is worked out
from what was read, without touching the disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from loba_tui.client.cache import hub_text, tensor_text
from loba_tui.client.runs import describe as listing
from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.hub.layout import Cache, Repository, Revision
from loba_tui.core.associate.caches.hub.query import Filter, Row, parse_filter, parse_sort
from loba_tui.core.associate.caches.hub.requests import Target
from loba_tui.core.errors import LobaError
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.user_folders import tensors_folder

Kind = Literal["run", "component", "repository", "revision", "file", "tensors"]
SORTS = ("size", "used", "modified", "name")


@dataclass(frozen=True)
class Node:
    """A row of the tree.

    Attributes:
        key: Stays the same as long as the thing exists.
        used: Wall time of the last use by a run; None is never, as far as is known.
        target: What commands of the cache take; None for what they do not.
        run: The living run that holds a component.
        leaf: Nothing is below it.
    """

    key: str
    kind: Kind
    depth: int
    name: str
    size: int
    used: float | None = None
    fetched: float | None = None
    refs: str = ""
    marks: tuple[str, ...] = ()
    target: Target | None = None
    run: RunDir | None = None
    leaf: bool = False


@dataclass(frozen=True)
class CacheState:
    """Everything that was read.

    Attributes:
        roots: Repositories and kept tensors, with what they are chosen and sorted by.
        memory: Living runs, each with its components.
        now: When it was read.
    """

    cache: HubCache
    found: Cache
    roots: tuple[tuple[Row, Node], ...]
    memory: tuple[tuple[Node, tuple[Node, ...]], ...]
    now: float
    _lister: hub_text.Lister = field(repr=False, compare=False)

    @classmethod
    def read(cls, environ: Mapping[str, str], recipes: Sequence[Path]) -> CacheState:
        """Scan the cache, and ask the ledger who uses it."""
        cache = HubCache.of_user(environ, recipes)
        found = cache.scan()
        now = time.time()
        lister = hub_text.Lister(cache)
        roots = [_hub_node(lister, each, None) for each in found.repositories]
        roots += [
            (row, _tensors(record)) for row, record in tensor_text.rows(tensors_folder(environ))
        ]
        return cls(
            cache=cache,
            found=found,
            roots=tuple(roots),
            memory=tuple(_memory(Ledger.of_user(environ))),
            now=now,
            _lister=lister,
        )

    @cached_property
    def largest(self) -> int:
        """Return the size that bars are drawn against."""
        return max((node.size for _, node in self.roots), default=0)

    def rows(self, opened: Set[str], tests: Sequence[Filter], sort: str) -> Iterator[Node]:
        """Yield what is shown, from top to bottom.

        Args:
            opened: Keys of the rows whose children are shown.
            tests: All have to hold for a repository.
            sort: Key and order, as `loba cache ls --sort` takes them.
        """
        for run, components in self.memory if not tests else ():
            yield run
            yield from components if run.key in opened else ()
        key, is_reversed = parse_sort(sort)
        passing = [pair for pair in self.roots if all(test(pair[0], self.now) for test in tests)]
        for _, node in sorted(passing, key=lambda pair: key(pair[0]), reverse=is_reversed):
            yield node
            if node.key in opened:
                yield from self._revisions(node, opened)

    def _revisions(self, above: Node, opened: Set[str]) -> Iterator[Node]:
        repository = self.found.repository(above.target.folder) if above.target else None
        for revision in repository.revisions if repository is not None else ():
            assert repository is not None
            _, node = _hub_node(self._lister, repository, revision)
            yield node
            if node.key in opened:
                yield from _files(repository, revision)


def parse_filters(text: str) -> tuple[list[Filter], str]:
    """Return the tests of a filter's words, and what could not be understood.

    Conditions are those of `loba cache ls -f`; a plain word is looked for in the name.
    """
    tests, problems = [], []
    for word in text.split():
        is_plain = not any(character in word for character in "<>=*?[")
        try:
            tests.append(parse_filter(f"*{word}*" if is_plain else word))
        except LobaError as error:
            problems.append(" ".join(str(error).splitlines()))
    return tests, "; ".join(problems)


def _hub_node(
    lister: hub_text.Lister, repository: Repository, revision: Revision | None
) -> tuple[Row, Node]:
    row, record = lister.row(repository, revision)
    commit = revision.commit if revision is not None else None
    node = Node(
        key=f"{repository.folder}@{commit}" if commit else repository.folder,
        kind="revision" if commit else "repository",
        depth=1 if commit else 0,
        name=commit[:12] if commit else repository.name,
        size=record["size"],
        used=record["last_used"],
        fetched=record["last_fetched"],
        refs=" ".join(record["refs"]),
        marks=tuple(record["marks"]),
        target=Target(repository.folder, commit),
    )
    return row, node


def _files(repository: Repository, revision: Revision) -> Iterator[Node]:
    for file in revision.files:
        yield Node(
            key=f"{repository.folder}@{revision.commit}:{file.path}",
            kind="file",
            depth=2,
            name=file.path,
            size=file.size,
            marks=(file.problem,) if file.problem else (),
            target=Target(repository.folder, revision.commit, file.path),
            leaf=True,
        )


def _tensors(record: Mapping[str, Any]) -> Node:
    return Node(
        key=f"tensors {record['path']}",
        kind="tensors",
        depth=0,
        name=record["id"],
        size=record["size"],
        used=record["last_used"],
        refs=f"{record['entries']} kept",
        marks=tuple(record["marks"]),
        leaf=True,
    )


def _memory(ledger: Ledger) -> Iterator[tuple[Node, tuple[Node, ...]]]:
    """Yield every living run that says what it holds."""
    for run in reversed(ledger.runs()):
        if not RunReader(run).liveness().is_alive:
            continue
        record = listing.run_record(run)
        components = [
            replace(
                _component(run, each["component"]),
                size=each["bytes"],
                refs=f"{each['device']} {each['dtype']}",
            )
            for each in record["resident"]
        ]
        components += [
            replace(_component(run, name), marks=("unloaded",)) for name in record["unloaded"]
        ]
        if components:
            size = sum(node.size for node in components)
            key = f"memory {run.path}"
            head = Node(key, "run", 0, run.name, size, refs="in memory", marks=("live",), run=run)
            yield head, tuple(components)


def _component(run: RunDir, name: str) -> Node:
    key = f"memory {run.path} {name}"
    return Node(key, "component", depth=1, name=name, size=0, run=run, leaf=True)
