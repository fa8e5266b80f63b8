"""A version 0 file rewritten as version 1, with its comments kept where they belong.

The file is flat, so each key carries the comment lines above it and the comment behind it to its
new section. Values are copied as they are written: `1e-4` stays `1e-4`.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from loba_tui.core.recipe.migrate.flags import V0_FLAGS, is_version_0, migrate_flags
from loba_tui.core.recipe.problems import Problem, ProblemsFound
from loba_tui.core.recipe.tree import Node
from loba_tui.core.recipe.yaml_tree import read_tree
from loba_tui.core.text import clean, nearest, quote


@dataclass(frozen=True)
class _Leaf:
    """A value as written, with the comment lines above it and the comment behind it."""

    value: str
    items: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    behind: str = ""


def migrate_text(text: str, origin: str = "<text>") -> str:
    """Return a version 0 file's text as version 1.

    Raises:
        ProblemsFound: The text is not YAML, is not version 0, or has keys that version 0 has not.
    """
    tree, problems = read_tree(text, origin)
    if not isinstance(tree.data, dict) or not is_version_0(
        {key: node.data for key, node in tree.data.items()}
    ):
        message = "expected a version 0 recipe: a flat mapping of flags without version"
        if isinstance(tree.data, dict) and getattr(tree.child("version"), "data", None) == 1:
            message = "this is version 1 already: there is nothing to migrate"
        problems = [*problems, Problem(*tree.place, "", message)]
        raise ProblemsFound(problems)
    for key, place in tree.keys.items():
        if key != "version" and key not in V0_FLAGS:
            message, shown = "not a key of version 0", clean(key, limit=120)
            problems.append(Problem(*place, shown, message, nearest(key, V0_FLAGS)))
        elif not _is_flat(key, tree.data[key]):
            expected = "a list of texts" if V0_FLAGS[key].type is list else "a single value"
            message = f"expected {expected}, got {quote(tree.data[key].plain())}"
            problems.append(Problem(*place, key, message))
    if problems:
        raise ProblemsFound(problems)

    source = _Source(text, tree)
    recipe = migrate_flags(tree.plain())
    footer = list(source.footer)
    for key, node in tree.data.items():
        if key == "version" or node.data is None or not V0_FLAGS[key].path:
            footer += source.comments(key)
            if key == "out_dir" and node.data is not None:
                footer.append(f"# The folder is not part of a recipe: --out-dir {clean(node.data)}")
    leaves = {
        V0_FLAGS[key].path: source.leaf(key, node)
        for key, node in tree.data.items()
        if key != "version" and node.data is not None and V0_FLAGS[key].path
    }
    body = list(_emit(recipe, leaves, (), ""))
    return "\n".join([*source.header, *body, *([""] if footer else []), *footer]) + "\n"


def _is_flat(key: str, node: Node) -> bool:
    if isinstance(node.data, tuple):
        listed = key in V0_FLAGS and V0_FLAGS[key].type is list
        return listed and not any(isinstance(item.data, tuple | dict) for item in node.data)
    return not isinstance(node.data, dict)


def _emit(
    value: Any, leaves: dict[tuple[str | int, ...], _Leaf], path: tuple[str | int, ...], pad: str
) -> Iterator[str]:
    """Yield the lines of a mapping, with the source's own text where a leaf came from it."""
    for key, item in value.items():
        here = (*path, key)
        if not path and isinstance(item, dict):
            yield ""
        leaf = leaves.get(here)
        if leaf is None and isinstance(item, dict):
            yield f"{pad}{key}:"
            yield from _emit(item, leaves, here, pad + "  ")
        elif leaf is None and isinstance(item, list):
            yield f"{pad}{key}:"
            for index, part in enumerate(item):
                yield from _as_item(_emit(part, leaves, (*here, index), pad + "    "), pad)
        else:
            leaf = leaf or _Leaf(_inline(item))
            yield from (pad + comment for comment in leaf.before)
            yield f"{pad}{key}: {leaf.value}".rstrip() + leaf.behind
            yield from (f"{pad}  - {written}" for written in leaf.items)


def _as_item(lines: Iterator[str], pad: str) -> Iterator[str]:
    """Mark the first line that is not a comment as the beginning of a list item."""
    begun = False
    for line in lines:
        if not begun and not line.lstrip().startswith("#"):
            begun = True
            yield f"{pad}  - {line[len(pad) + 4 :]}"
        else:
            yield line


class _Source:
    """Which comments and which text belong to which key of a flat file."""

    def __init__(self, text: str, tree: Node) -> None:
        self._text = text
        spans = [
            (event.start_mark, event.end_mark)
            for event in YAML(typ="safe", pure=True).parse(text)
            if type(event).__name__ == "ScalarEvent"
        ]
        self._spans = {(start.line + 1, start.column + 1): (start, end) for start, end in spans}
        self._keys = sorted((place.line, key) for key, place in tree.keys.items())
        self._content = sorted(
            {line for start, end in spans for line in range(start.line + 1, end.line + 2)}
        )
        self.header: list[str] = []
        self.footer: list[str] = []
        self._before: dict[str, list[str]] = {}
        self._behind: dict[str, str] = {}
        for line, comment in _comments(text, [(start.index, end.index) for start, end in spans]):
            self._assign(line, comment)

    def leaf(self, key: str, node: Node) -> _Leaf:
        value = ""
        items: tuple[str, ...] = ()
        if isinstance(node.data, tuple):
            items = tuple(self._written(item) for item in node.data)
            value = "" if items else "[]"
        elif V0_FLAGS[key].type is list:
            items = (self._written(node),)
        else:
            value = self._written(node)
        behind = f"  {self._behind[key]}" if key in self._behind else ""
        return _Leaf(value, items, tuple(self._before.get(key, ())), behind)

    def comments(self, key: str) -> list[str]:
        """Return a key's comments, for one that has no place in version 1."""
        return [*self._before.get(key, ()), *filter(None, [self._behind.get(key)])]

    def _assign(self, line: int, comment: str) -> None:
        index = bisect_right(self._keys, line, key=lambda entry: entry[0])
        owner = self._keys[index - 1][1] if index else ""
        following = bisect_right(self._content, line)
        next_content = self._content[following] if following < len(self._content) else None
        next_key = self._keys[index][0] if index < len(self._keys) else None
        if index == 0:
            self.header.append(comment)
        elif line in self._content and owner not in self._behind:
            self._behind[owner] = comment
        elif next_content is not None and (next_key is None or next_content < next_key):
            self._before.setdefault(owner, []).append(comment)
        elif index == len(self._keys):
            self.footer.append(comment)
        else:
            self._before.setdefault(self._keys[index][1], []).append(comment)

    def _written(self, node: Node) -> str:
        """Return a scalar as it stands in the source, if it stands on one line there."""
        span = self._spans.get((node.place.line, node.place.column))
        if span is not None:
            start, end = span
            written = self._text[start.index : end.index]
            if "\n" not in written and written[:1] not in "|>&":
                return written
        return _inline(node.data)


def _comments(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, str]]:
    """Yield line and text of each comment: a # that is outside of scalars and follows a space."""
    starts = [start for start, _ in spans]
    offset = 0
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        for found in re.finditer(r"(?:^|(?<=\s))#", line):
            position = offset + found.start()
            index = bisect_right(starts, position) - 1
            if index < 0 or position >= spans[index][1]:
                yield number, line[found.start() :].rstrip()
                break
        offset += len(line)


def _inline(value: Any) -> str:
    """Return a value as YAML on one line; JSON is that for text."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9 _./-]*[A-Za-z0-9]", value):
        return value
    return json.dumps(value, ensure_ascii=False)
