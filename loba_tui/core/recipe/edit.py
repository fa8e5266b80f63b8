"""Change one key of a recipe's text and leave the rest as it was written, comments included."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.util import load_yaml_guess_indent

from loba_tui.core.recipe.problems import Place, Problem, ProblemsFound, dotted
from loba_tui.core.recipe.tree import read_tree


def set_key(text: str, path: Sequence[str | int], value: Any, *, origin: str = "<text>") -> str:
    """Return a recipe's text with one key set; sections that are missing are made.

    Nothing is validated here beyond the text being YAML: load the result to check it.

    Args:
        text: A recipe, with comments.
        path: Keys, and item numbers in lists.
        value: Scalars, lists and dicts.
        origin: The file's name, for errors.

    Raises:
        ProblemsFound: The text is not YAML, or the path leads through a value or past a list.
    """
    _, problems = read_tree(text, origin)
    if problems:
        raise ProblemsFound(problems)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    yaml.brace_single_entry_mapping_in_flow_sequence = True
    _, indent, offset = load_yaml_guess_indent(text)
    # ruamel counts a list's indent from its key to the item, and the dash within that.
    yaml.indent(mapping=2, sequence=(offset or 0) + 2 if indent else 4, offset=offset or 0)
    document = yaml.load(text)
    _set(document, path, value, Place(origin))
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


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
            raise ProblemsFound([Problem.at(place, dotted(path[: depth + 1]), message)])
        if last:
            section[step] = _in_style(value)
        elif isinstance(section, dict) and section.get(step) is None:
            section[step] = {}
        section = section[step]
