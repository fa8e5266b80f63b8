"""Change or remove one key of a recipe's text and leave the rest as written, comments included."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.util import load_yaml_guess_indent

from loba_tui.core.recipe.problems import Place, Problem, ProblemsFound, dotted
from loba_tui.core.recipe.yaml_tree import read_tree

_PLAIN = re.compile(r"[A-Za-z0-9_./+-]([A-Za-z0-9_./+ -]*[A-Za-z0-9_./+-])?")
_HAS_ANCHOR = re.compile(r"[&*]\w")


def set_key(
    text: str,
    path: Sequence[str | int],
    value: Any,
    *,
    origin: str = "<text>",
    spelled: str | None = None,
) -> str:
    """Return a recipe's text with one key set; sections that are missing are made.

    Nothing is validated here beyond the text being YAML: load the result to check it.

    Args:
        path: Keys, and item numbers in lists.
        value: Scalars, lists and dicts.
        spelled: How to write the value, such as 5.0e-4; it must mean the same.

    Raises:
        ProblemsFound: The text is not YAML, or the path leads through a value or past a list.
    """
    _require_yaml(text, origin)
    line = spelled if spelled is not None else spell(value)
    if line is not None and not _HAS_ANCHOR.search(text):
        spliced = _spliced(text, YAML().compose(text), path, line)
        if spliced is not None:
            return spliced
    yaml = _round_trip(text)
    document = yaml.load(text)
    _set(document, path, value, Place(origin))
    return _dumped(yaml, document)


def spell(value: Any) -> str | None:
    """Return a value as a recipe writes it on one line; None for what takes several."""
    if isinstance(value, str):
        return value if _is_plain(value) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        parts = [None if isinstance(item, list | tuple) else spell(item) for item in value]
        known = [part for part in parts if part is not None]
        return f"[{', '.join(known)}]" if len(known) == len(parts) else None
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return None


def _is_plain(text: str) -> bool:
    """Say whether a text is written without quotes, also inside of brackets."""
    if not text or text != text.strip() or not _PLAIN.fullmatch(text):
        return False
    try:
        tree, problems = read_tree(f"[{text}]", "<value>")
    except ProblemsFound:
        return False
    return not problems and tree.plain() == [text]


def _spliced(text: str, root: Any, path: Sequence[str | int], line: str) -> str | None:
    """Return the text with only the value's own characters changed; None where that cannot be.

    ruamel's round trip keeps comments and blank lines at the key before them, so that what it adds
    behind a key comes after the blank line that ends the section.
    """
    node = root
    for depth, step in enumerate(path):
        if not isinstance(step, str) or not isinstance(node, MappingNode) or not node.value:
            return None
        found = next(((key, value) for key, value in node.value if key.value == step), None)
        if found is None:
            if node.flow_style or not all(isinstance(each, str) for each in path):
                return None
            return _added(text, node, [str(each) for each in path[depth:]], line, depth == 0)
        node = found[1]
    is_block = not getattr(node, "flow_style", True) or getattr(node, "style", "") in ("|", ">")
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, MappingNode) or is_block or start == end:
        return None
    return text[:start] + line + _aligned(text[end:], len(line) - (end - start))


def _aligned(rest: str, shift: int) -> str:
    """Return what follows a value, with the comment on its line kept in its column if it can be."""
    gap = re.match(r" +(?=#)", rest)
    if gap is None:
        return rest
    return " " * max(2, len(gap[0]) - shift) + rest[gap.end() :]


def _added(text: str, section: Any, path: Sequence[str], line: str, at_top: bool) -> str:
    """Return the text with a key, in sections that are missing, behind the last of a section."""
    lines = text.splitlines(keepends=True)
    last_key, last_value = section.value[-1]
    end = _end_of(last_key, last_value) + 1
    indent = last_key.start_mark.column
    new = [f"{' ' * (indent + 2 * depth)}{key}:\n" for depth, key in enumerate(path)]
    new[-1] = f"{new[-1].rstrip()} {line}\n"
    if at_top and len(path) > 1 and _has_gap_before(lines, last_key.start_mark.line):
        new.insert(0, "\n")
    if not lines[end - 1].endswith("\n"):
        lines[end - 1] += "\n"
    return "".join([*lines[:end], *new, *lines[end:]])


def _has_gap_before(lines: Sequence[str], number: int) -> bool:
    """Say whether a blank line is above a line and its comments."""
    above = number - 1
    while above >= 0 and lines[above].lstrip().startswith("#"):
        above -= 1
    return above >= 0 and not lines[above].strip()


def delete_key(text: str, path: Sequence[str], *, origin: str = "<text>") -> str:
    """Return a recipe's text without a key; a section that this leaves empty goes too.

    A key that is not there leaves the text as it is.

    Raises:
        ProblemsFound: The text is not YAML.
    """
    _require_yaml(text, origin)
    found = _find(YAML().compose(text), path)
    if found is None:
        return text
    section, key, value = found
    if len(section.value) == 1 and len(path) > 1:
        return delete_key(text, path[:-1], origin=origin)
    if not section.flow_style:
        # ruamel keeps comments at the key before them: it would drop those of the key after.
        lines = text.splitlines(keepends=True)
        del lines[key.start_mark.line : _end_of(key, value) + 1]
        return "".join(lines)
    yaml = _round_trip(text)
    document = yaml.load(text)
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return _dumped(yaml, document)


def _require_yaml(text: str, origin: str) -> None:
    _, problems = read_tree(text, origin)
    if problems:
        raise ProblemsFound(problems)


def _round_trip(text: str) -> YAML:
    """Return what reads and writes a text as it is laid out; to find that out takes a while."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    yaml.brace_single_entry_mapping_in_flow_sequence = True
    _, indent, offset = load_yaml_guess_indent(text)
    # ruamel counts a list's indent from its key to the item, and the dash within that.
    yaml.indent(mapping=2, sequence=(offset or 0) + 2 if indent else 4, offset=offset or 0)
    return yaml


def _dumped(yaml: YAML, document: Any) -> str:
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _find(node: Any, path: Sequence[str]) -> tuple[Any, Any, Any] | None:
    """Return the mapping node that holds the last key of a path, and the key's two nodes."""
    found = None
    for step in path:
        pairs = node.value if isinstance(node, MappingNode) else ()
        found = next(((node, key, value) for key, value in pairs if key.value == step), None)
        if found is None:
            return None
        node = found[2]
    return found


def _end_of(key: Any, value: Any) -> int:
    """Return the line that a key's value ends on."""
    # A value that is not written has its marks at the key after it.
    is_absent = isinstance(value, ScalarNode) and value.start_mark.index == value.end_mark.index
    line: int = key.end_mark.line
    return line if is_absent else _last_line(value)


def _last_line(node: Any) -> int:
    """Return the line that a value ends on: a block's own end mark is behind the comments."""
    if isinstance(node, MappingNode | SequenceNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    is_block_text = isinstance(node, ScalarNode) and node.style in ("|", ">")
    # Literal and folded text ends where the next line begins.
    line: int = node.end_mark.line - (1 if is_block_text else 0)
    return line


def _in_style(value: Any) -> Any:
    """Return a list of scalars as one that is written on one line, as recipes write them."""
    if not isinstance(value, list | tuple) or any(isinstance(v, list | dict) for v in value):
        return value
    line = CommentedSeq(value)
    line.fa.set_flow_style()
    return line


def _set(section: Any, path: Sequence[str | int], value: Any, place: Place) -> None:
    for depth, step in enumerate(path):
        last = depth == len(path) - 1
        is_item = isinstance(section, list) and isinstance(step, int) and step < len(section)
        if not is_item and not (isinstance(section, dict) and isinstance(step, str)):
            message = "there is no such section or item"
            raise ProblemsFound([Problem(*place, dotted(path[: depth + 1]), message)])
        if last:
            section[step] = _in_style(value)
        elif isinstance(section, dict) and section.get(step) is None:
            section[step] = {}
        section = section[step]
