"""A recipe's text as a tree of nodes that know where every key and value stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loba_tui.core.recipe.problems import Place, Problem, ProblemsFound, dotted
from loba_tui.core.text import clean


@dataclass(frozen=True)
class Node:
    """A scalar, a list of nodes or a mapping of nodes.

    Attributes:
        data: A Python scalar, a tuple of nodes, or a dict from key to node.
        place: Where the value begins.
        keys: For a mapping, where each key stands.
        size: Number of nodes after alias expansion.
        depth: Number of levels below and including this one.
    """

    data: Any
    place: Place
    keys: dict[str, Place]
    size: int = 1
    depth: int = 1

    def plain(self) -> Any:
        """Return the tree as dict, list and scalars."""
        if isinstance(self.data, dict):
            return {key: child.plain() for key, child in self.data.items()}
        if isinstance(self.data, tuple):
            return [child.plain() for child in self.data]
        return self.data

    def child(self, step: str | int) -> Node | None:
        """Return the node at a key or an item number, or None."""
        if isinstance(self.data, dict) and isinstance(step, str):
            return self.data.get(step)
        if isinstance(self.data, tuple) and isinstance(step, int) and step < len(self.data):
            item: Node = self.data[step]
            return item
        return None

    def at(self, path: Sequence[str | int]) -> Node | None:
        """Return the node at a path of keys and item numbers, or None."""
        node: Node | None = self
        for step in path:
            node = node.child(step) if node is not None else None
        return node

    def plain_at(self, path: Sequence[str | int]) -> Any:
        """Return what stands at a path as dict, list or scalar; None where nothing does."""
        node = self.at(path)
        return None if node is None else node.plain()

    def items_at(self, path: Sequence[str | int]) -> tuple[Node, ...]:
        """Return the items of the list at a path; none where there is no list."""
        node = self.at(path)
        return node.data if node is not None and isinstance(node.data, tuple) else ()

    def section_at(self, path: Sequence[str | int]) -> dict[str, Node]:
        """Return the nodes of the section at a path by key; none where there is no section."""
        node = self.at(path)
        return node.data if node is not None and isinstance(node.data, dict) else {}

    def with_value(self, path: Sequence[str], value: Node) -> Node:
        """Return the tree with one value set; sections that are missing are made.

        Args:
            path: Keys, and item numbers in lists, as they are written in `key.path=value`.
            value: Its place is where the problems are.

        Raises:
            ProblemsFound: The path leads through a value, or past the end of a list.
        """
        return _with_value(self, path, 0, value)

    def locate(self, path: Sequence[str | int]) -> Place:
        """Return where a key stands; for one that is missing, where its section's key stands."""
        node, place = self, self.place
        for step in path:
            found = node.child(step)
            if found is None:
                return place
            place = node.keys[step] if isinstance(step, str) else found.place
            node = found
        return place

    def problem(
        self,
        path: Sequence[str | int],
        message: str,
        suggestion: str | None = None,
        *,
        refused: bool = False,
    ) -> Problem:
        """Return a problem with the key at a path, placed where the key stands."""
        key = clean(dotted(path), limit=120)
        return Problem(*self.locate(path), key, message, suggestion, refused=refused)

    def walk(
        self, path: tuple[str | int, ...] = ()
    ) -> Iterator[tuple[tuple[str | int, ...], Node]]:
        """Yield every node below and including this one with its path."""
        yield path, self
        if isinstance(self.data, dict):
            for key, child in self.data.items():
                yield from child.walk((*path, key))
        elif isinstance(self.data, tuple):
            for index, child in enumerate(self.data):
                yield from child.walk((*path, index))


def node_of(value: Any, place: Place) -> Node:
    """Return plain dicts, lists and scalars as a tree that stands at one place."""
    if isinstance(value, Mapping):
        data = {str(key): node_of(item, place) for key, item in value.items()}
        return mapping_node(data, dict.fromkeys(data, place), place)
    if isinstance(value, list | tuple):
        return list_node([node_of(item, place) for item in value], place)
    return Node(value, place, {})


def mapping_node(data: dict[str, Node], keys: dict[str, Place], place: Place) -> Node:
    """Return a mapping node with its size and depth counted."""
    size = 1 + sum(1 + child.size for child in data.values())
    depth = 1 + max((child.depth for child in data.values()), default=0)
    return Node(data, place, keys, size, depth)


def list_node(items: Sequence[Node], place: Place) -> Node:
    """Return a list node with its size and depth counted."""
    size = 1 + sum(child.size for child in items)
    return Node(tuple(items), place, {}, size, 1 + max((c.depth for c in items), default=0))


def _with_value(node: Node, path: Sequence[str], depth: int, value: Node) -> Node:
    if depth == len(path):
        return value
    step, place = path[depth], value.place
    here, there = (clean(dotted(path[:end])) for end in (depth, depth + 1))
    if isinstance(node.data, tuple):
        if not (step.isascii() and step.isdigit() and int(step) < len(node.data)):
            message = f"{here} is a list of {len(node.data)}; expected its number"
            raise ProblemsFound([Problem(*place, there, message)])
        items = list(node.data)
        items[int(step)] = _with_value(items[int(step)], path, depth + 1, value)
        return list_node(items, node.place)
    if not isinstance(node.data, dict) and node.data is not None:
        message = f"{here} is a value, not a section"
        raise ProblemsFound([Problem(*place, there, message)])
    data = dict(node.data or {})
    data[step] = _with_value(data.get(step, Node(None, place, {})), path, depth + 1, value)
    is_last = depth + 1 == len(path)
    keys = {**node.keys, step: place if is_last else node.keys.get(step, place)}
    return mapping_node(data, keys, node.place)
