"""YAML text as a tree that knows where every key and value stands.

The tree is built from parser events, before any alias is expanded and without constructing
anything: tags are refused, sizes are limited, and all duplicate keys are found. Scalars follow the
core schema of YAML 1.2, where `2e-4` is a number and `no` is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLStreamError
from ruamel.yaml.reader import ReaderError

from loba_tui.core.recipe.problems import Place, Problem, ProblemsFound, dotted
from loba_tui.core.text import clean

MAX_DEPTH = 32
MAX_NODES = 20_000

_NULL = frozenset(["", "~", "null", "Null", "NULL"])
_TRUE = frozenset(["true", "True", "TRUE"])
_FALSE = frozenset(["false", "False", "FALSE"])
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# A prompt such as `{color} shape` without quotes: a closed bracket, and then more text.
_BRACKET_FIRST = re.compile(r"(?:^\s*|[:-]\s+)(?:\{[^{}]*\}|\[[^\[\]]*\])\s*$")
# A longer number is no number of a recipe; as text it meets the ordinary "expected a number".
_MAX_DIGITS = 30


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
        return Problem.at(self.locate(path), key, message, suggestion, refused=refused)

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
            raise ProblemsFound([Problem.at(place, there, message)])
        items = list(node.data)
        items[int(step)] = _with_value(items[int(step)], path, depth + 1, value)
        return list_node(items, node.place)
    if not isinstance(node.data, dict) and node.data is not None:
        message = f"{here} is a value, not a section"
        raise ProblemsFound([Problem.at(place, there, message)])
    data = dict(node.data or {})
    data[step] = _with_value(data.get(step, Node(None, place, {})), path, depth + 1, value)
    is_last = depth + 1 == len(path)
    keys = {**node.keys, step: place if is_last else node.keys.get(step, place)}
    return mapping_node(data, keys, node.place)


def read_tree(text: str, origin: str, *, fixed: Place | None = None) -> tuple[Node, list[Problem]]:
    """Return the tree of one YAML document, and the problems that do not prevent building it.

    Args:
        text: The document.
        origin: The file's name, for places.
        fixed: The place of every node, for text that is not in a file.

    Raises:
        ProblemsFound: When the text is not YAML, or is more than a recipe may be.
    """
    builder = _Builder(text, origin, fixed)
    return builder.document(), builder.problems


def resolve_scalar(text: str) -> Any:
    """Return what an unquoted scalar means in YAML 1.2's core schema."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if len(text) <= _MAX_DIGITS:
        if _INT.fullmatch(text):
            return int(text, 0 if text[:2] in ("0o", "0x") else 10)
        if _FLOAT.fullmatch(text):
            return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


class _Builder:
    """Turns parser events into nodes, one document's worth."""

    def __init__(self, text: str, origin: str, fixed: Place | None) -> None:
        self.origin = origin
        self._text = text
        self.fixed = fixed
        self.problems: list[Problem] = []
        self._anchors: dict[str, Node] = {}
        self._num_nodes = 0
        self._events = YAML(typ="safe", pure=True).parse(text)

    def place(self, mark: Any) -> Place:
        return self.fixed or Place(self.origin, mark.line + 1, mark.column + 1)

    def document(self) -> Node:
        try:
            self._next("StreamStartEvent")
            event = self._next()
            if _kind(event) == "StreamEndEvent":
                raise self._stop(event.start_mark, "the file is empty")
            if event.version is not None and tuple(event.version) != (1, 2):
                raise self._stop(event.start_mark, "only YAML 1.2 is read; remove the directive")
            node = self._node(self._next(), 1)
            end = self._next("DocumentEndEvent")
            following = self._next()
            if _kind(following) != "StreamEndEvent":
                mark = getattr(following, "start_mark", end.start_mark)
                raise self._stop(mark, "a second document begins here; a recipe is one document")
        except MarkedYAMLError as error:
            raise self._syntax(error) from error
        except ReaderError as error:
            raise self._bad_character(error) from error
        except YAMLStreamError as error:  # pragma: no cover - text never has a byte order problem
            raise ProblemsFound([Problem.at(self._start(), "", clean(error))]) from error
        return node

    def _next(self, *expected: str) -> Any:
        event = next(self._events)
        assert not expected or _kind(event) in expected
        return event

    def _node(self, event: Any, depth: int) -> Node:
        place = self.place(event.start_mark)
        if depth > MAX_DEPTH:
            raise self._stop(event.start_mark, f"nested more than {MAX_DEPTH} deep")
        kind = _kind(event)
        if kind == "AliasEvent":
            node = self._alias(event, depth)
            self._count(node.size, event)
            return node
        self._count(1, event)
        if getattr(event, "tag", None) is not None:
            self._report(event, f"the tag {clean(event.tag, limit=40)} is not allowed in a recipe")
        if kind == "MappingStartEvent":
            node = self._mapping(place, depth)
        elif kind == "SequenceStartEvent":
            node = self._sequence(place, depth)
        else:
            quoted = event.style in ("'", '"', "|", ">")
            node = Node(event.value if quoted else resolve_scalar(event.value), place, {})
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _mapping(self, place: Place, depth: int) -> Node:
        data: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        while _kind(event := self._next()) != "MappingEndEvent":
            key_place = self.place(event.start_mark)
            key_node = self._node(event, depth + 1)
            # The key as written: `1` and `true` are names here, not a number and a truth value.
            key = event.value if _kind(event) == "ScalarEvent" else key_node.data
            value = self._node(self._next(), depth + 1)
            if not isinstance(key, str):
                self._report(event, "a key must be text")
            elif key == "<<":
                self._report(event, "merge keys (<<) are not read; write the keys out")
            elif key in data:
                first = keys[key]
                seen = f" on line {first.line}" if first.line else ""
                self._report(event, f"the key was already given{seen}", clean(key))
            else:
                data[key], keys[key] = value, key_place
        return mapping_node(data, keys, place)

    def _sequence(self, place: Place, depth: int) -> Node:
        items = []
        while _kind(event := self._next()) != "SequenceEndEvent":
            items.append(self._node(event, depth + 1))
        return list_node(items, place)

    def _alias(self, event: Any, depth: int) -> Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            name = clean(event.anchor, limit=40)
            raise self._stop(event.start_mark, f"*{name} has no finished &{name} before it")
        if depth + node.depth - 1 > MAX_DEPTH:
            raise self._stop(event.start_mark, f"nested more than {MAX_DEPTH} deep")
        return replace(node, place=self.place(event.start_mark))

    def _count(self, size: int, event: Any) -> None:
        self._num_nodes += size
        if self._num_nodes > MAX_NODES:
            raise self._stop(event.start_mark, f"more than {MAX_NODES} values, aliases expanded")

    def _report(self, event: Any, message: str, key: str = "") -> None:
        self.problems.append(Problem.at(self.place(event.start_mark), key, message))

    def _stop(self, mark: Any, message: str) -> ProblemsFound:
        return ProblemsFound([*self.problems, Problem.at(self.place(mark), "", message)])

    def _start(self) -> Place:
        return self.fixed or Place(self.origin, 1, 1)

    def _syntax(self, error: MarkedYAMLError) -> ProblemsFound:
        mark = error.problem_mark or error.context_mark
        message = _plain_syntax(error.problem or "", error.context or "")
        if mark and _BRACKET_FIRST.search(self._text[: mark.index].rsplit("\n", 1)[-1]):
            message = "not valid YAML: text that begins with { or [ needs quotes"
        return ProblemsFound(
            [*self.problems, Problem.at(self.place(mark) if mark else self._start(), "", message)]
        )

    def _bad_character(self, error: ReaderError) -> ProblemsFound:
        code = error.character if isinstance(error.character, int) else ord(error.character[0])
        message = f"the character U+{code:04X} is not allowed in YAML"
        return ProblemsFound([Problem.at(self._start(), "", message)])


def _kind(event: Any) -> str:
    return type(event).__name__


def _plain_syntax(problem: str, context: str) -> str:
    """Return the parser's complaint in plain language, where it is a common one."""
    if "'\\t'" in problem:
        return "a tab is used to indent; YAML indents with spaces"
    common = {
        "mapping values are not allowed": "a second ': ' on one line, or wrong indentation; "
        "text that holds ': ' needs quotes",
        "could not find expected ':'": "the line above needs a ':' after its key",
        "expected <block end>": "the indentation does not match the lines above",
        "found unexpected end of stream": "a quote or bracket is opened and never closed",
        "expected ',' or ']'": "a '[' is not closed, or a comma is missing",
        "expected ',' or '}'": "a '{' is not closed, or a comma is missing",
        "found character '@'": "text that begins with @ needs quotes",
        "found character '`'": "text that begins with ` needs quotes",
        "found character '%'": "text that begins with % needs quotes",
        "found undefined tag handle": "tags are not allowed in a recipe",
    }
    for phrase, plain in common.items():
        if phrase in problem:
            return f"not valid YAML: {plain}"
    return clean(f"not valid YAML: {context + ': ' if context else ''}{problem}", limit=200)
