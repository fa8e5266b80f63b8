"""Checks of prompts and concepts beyond their types."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator

from loba_tui.core.plugins import Plugin
from loba_tui.core.recipe.problems import Problem, dotted
from loba_tui.core.recipe.tree import Node
from loba_tui.core.text import clean, nearest, quote

# More than any run can use; a product over `vary` reaches absurd sizes with a few lines.
MAX_EXPANDED_CONCEPTS = 10_000

_CONCEPTS = ("method", "concepts")
_PROMPT_LISTS = (("sample", "prompts"), ("proof", "prompts"))


def check_concepts(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield what is wrong with `method.concepts`; without a known method, only with its prompts."""
    required = tuple(method.constants.get("REQUIRES", ())) if method else ()
    node = tree.at(_CONCEPTS)
    items = node.data if node is not None and isinstance(node.data, tuple) else ()
    if required and method and not items and (node is None or node.data in ((), None)):
        message = f"{method.name} needs at least one concept ({', '.join(required)})"
        yield tree.problem(_CONCEPTS, message)
    num_expanded = 0
    for index, concept in enumerate(items):
        if not isinstance(concept.data, dict):
            continue
        path = (*_CONCEPTS, index)
        for field in required:
            child = concept.child(field)
            if child is None or child.data is None:
                yield Problem.at(
                    tree.locate(path),
                    dotted((*path, field)),
                    f"missing; {method.name if method else 'the method'} needs it",
                )
        yield from _check_prompts_of(tree, path, concept, required)
        yield from _check_placeholders(tree, path, concept)
        num_expanded += _num_expanded(concept)
    if num_expanded > MAX_EXPANDED_CONCEPTS:
        message = f"vary multiplies to {num_expanded} concepts; at most {MAX_EXPANDED_CONCEPTS}"
        yield tree.problem(_CONCEPTS, message)


def check_prompts(tree: Node) -> Iterator[Problem]:
    """Yield what is wrong with the prompt lists of `sample` and `proof`."""
    for path in _PROMPT_LISTS:
        node = tree.at(path)
        if node is None or not isinstance(node.data, tuple):
            continue
        if not node.data:
            message = "the list is empty; write a prompt, or leave the key out for the default"
            yield tree.problem(path, message)
        for index, item in enumerate(node.data):
            if isinstance(item.data, str) and not item.data.strip():
                yield tree.problem((*path, index), "the prompt is empty")


def _check_prompts_of(
    tree: Node, path: tuple[str | int, ...], concept: Node, required: tuple[str, ...]
) -> Iterator[Problem]:
    target = concept.child("target")
    if target is not None and isinstance(target.data, str) and not target.data.strip():
        place = (*path, "target")
        yield tree.problem(place, "the prompt is empty")
    # "" is a real prompt for the other fields: it is the model's unconditional prediction.
    positive, negative = concept.child("positive"), concept.child("negative")
    same = positive is not None and negative is not None and positive.data == negative.data
    if same and {"positive", "negative"} <= set(required) and isinstance(positive.data, str):  # type: ignore[union-attr]
        place = (*path, "negative")
        message = "the same prompt as positive: there is no direction between them"
        yield tree.problem(place, message)


def _check_placeholders(
    tree: Node, path: tuple[str | int, ...], concept: Node
) -> Iterator[Problem]:
    vary = concept.child("vary")
    keys = list(vary.data) if vary is not None and isinstance(vary.data, dict) else []
    used: set[str] = set()
    for field, text_node in _texts(concept):
        place = (*path, *field)
        try:
            parts = list(string.Formatter().parse(text_node.data))
        except ValueError:
            message = "a brace is not closed; write {{ or }} for a brace of the prompt itself"
            yield tree.problem(place, message)
            continue
        for _, name, form, conversion in parts:
            if name is None:
                continue
            if form or conversion or not name.isidentifier():
                message = (
                    f"a placeholder is {{name}} and nothing more, got {quote('{' + name + '}')}"
                )
                yield tree.problem(place, message)
            elif name not in keys:
                listed = f"vary has {', '.join(map(clean, keys))}" if keys else "there is no vary"
                near = nearest(name, keys)
                message = f"{{{clean(name)}}} is not a key of vary ({listed})"
                meant = f"{{{near}}}" if near else None
                yield tree.problem(place, message, meant)
            used.add(name)
    for key in keys:
        if key not in used:
            place = (*path, "vary", key)
            message = f"no prompt of this concept uses {{{clean(key, limit=40)}}}"
            yield tree.problem(place, message)


def _texts(concept: Node) -> Iterator[tuple[tuple[str | int, ...], Node]]:
    for field in ("target", "positive", "negative", "neutral"):
        node = concept.child(field)
        if node is not None and isinstance(node.data, str):
            yield (field,), node
    preserve = concept.child("preserve")
    items = preserve.data if preserve is not None else None
    for index, item in enumerate(items if isinstance(items, tuple) else ()):
        if isinstance(item, Node) and isinstance(item.data, str):
            yield ("preserve", index), item


def _num_expanded(concept: Node) -> int:
    vary = concept.child("vary")
    lists = vary.data.values() if vary is not None and isinstance(vary.data, dict) else ()
    return math.prod(len(node.data) for node in lists if isinstance(node.data, tuple))
