"""YAML text as a tree of nodes.

The tree is built from parser events, before any alias is expanded and without constructing
anything: tags are refused, sizes are limited, and all duplicate keys are found. Scalars follow the
core schema of YAML 1.2, where `2e-4` is a number and `no` is text.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from loba_tui.core.recipe.problems import Place, Problem, ProblemsFound
from loba_tui.core.recipe.tree import Node, list_node, mapping_node
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
# A no-break space, or another that only looks like one, where YAML wants a space.
_ODD_SPACE = re.compile(r"^ *[\u00a0\u2000-\u200a\u202f\u3000]|:[\u00a0\u2000-\u200a\u202f\u3000]")
# A longer number is no number of a recipe; as text it meets the ordinary "expected a number".
_MAX_DIGITS = 30


def read_tree(text: str, origin: str, *, fixed: Place | None = None) -> tuple[Node, list[Problem]]:
    """Return the tree of one YAML document, and the problems that do not prevent building it.

    Args:
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
        merged: dict[str, Node] = {}
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
                merged = value.data if isinstance(value.data, dict) else {}
            elif key in data:
                first = keys[key]
                seen = f" on line {first.line}" if first.line else ""
                self._report(event, f"the key was already given{seen}", clean(key))
            else:
                data[key], keys[key] = value, key_place
        # As if they were read: what they hold is not missing too.
        for key in merged.keys() - data.keys():
            data[key], keys[key] = merged[key], place
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
        self.problems.append(Problem(*self.place(event.start_mark), key, message))

    def _stop(self, mark: Any, message: str) -> ProblemsFound:
        return ProblemsFound([*self.problems, Problem(*self.place(mark), "", message)])

    def _start(self) -> Place:
        return self.fixed or Place(self.origin, 1, 1)

    def _syntax(self, error: MarkedYAMLError) -> ProblemsFound:
        mark = error.problem_mark or error.context_mark
        message = _plain_syntax(error.problem or "", error.context or "")
        if mark and _BRACKET_FIRST.search(self._text[: mark.index].rsplit("\n", 1)[-1]):
            message = "not valid YAML: text that begins with { or [ needs quotes"
        odd = self._odd_space(mark.line) if mark else 0
        if odd:
            message = (
                f"not valid YAML: line {odd} has a space in it that is none to YAML, such as U+00A0"
                " of a web page; write it anew"
            )
        return ProblemsFound(
            [*self.problems, Problem(*self.place(mark) if mark else self._start(), "", message)]
        )

    def _odd_space(self, last: int) -> int:
        """Return the number of the last line up to one that an odd space indents; 0 for none."""
        lines = self._text.splitlines()[: last + 1]
        numbers = [n for n, line in enumerate(lines, 1) if _ODD_SPACE.search(line)]
        return max(numbers, default=0)

    def _bad_character(self, error: ReaderError) -> ProblemsFound:
        code = error.character if isinstance(error.character, int) else ord(error.character[0])
        message = f"the character U+{code:04X} is not allowed in YAML"
        return ProblemsFound([Problem(*self._start(), "", message)])


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
        "found unknown escape character": "a backslash in double quotes begins an escape; write "
        "the text, such as a path of Windows, in single quotes or without quotes",
        "found undefined tag handle": "tags are not allowed in a recipe",
    }
    for phrase, plain in common.items():
        if phrase in problem:
            return f"not valid YAML: {plain}"
    return clean(f"not valid YAML: {context + ': ' if context else ''}{problem}", limit=200)
