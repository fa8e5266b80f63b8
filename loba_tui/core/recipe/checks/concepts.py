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
_HELD_OUT = ("validation", "concepts")
_PROMPT_LISTS = (("sample", "prompts"), ("proof", "prompts"))


def check_concepts(tree: Node, method: Plugin | None) -> Iterator[Problem]:
    """Yield what is wrong with concepts; without a known method, only with their prompts.

    Those of `validation.concepts` need what those of `method.concepts` do.
    """
    required = tuple(method.constants.get("REQUIRES", ())) if method else ()
    if required and method and tree.plain_at(_CONCEPTS) in (None, []):
        message = f"{method.name} needs at least one concept ({', '.join(required)})"
        yield tree.problem(_CONCEPTS, message)
    takes_empty = bool(method and method.constants.get("EMPTY_TARGET"))
    num_expanded = 0
    listed = [
        ((*place, index), concept)
        for place in (_CONCEPTS, _HELD_OUT)
        for index, concept in enumerate(tree.items_at(place))
    ]
    for path, concept in listed:
        if not isinstance(concept.data, dict):
            continue
        for field in required:
            if concept.plain_at((field,)) is None:
                yield Problem(
                    *tree.locate(path),
                    dotted((*path, field)),
                    f"missing; {method.name if method else 'the method'} needs it",
                )
        yield from _check_prompts_of(tree, path, concept, required, takes_empty=takes_empty)
        yield from _check_placeholders(tree, path, concept)
        lists = concept.section_at(("vary",)).values()
        num_expanded += math.prod(len(each.data) for each in lists if isinstance(each.data, tuple))
    yield from _check_shared(tree)
    if method and tree.items_at(("method", "watch")) and not _reports_costs(method):
        message = f"{method.name} does not tell what it does to single prompts, so this is unused"
        yield tree.problem(("method", "watch"), message)
    targets = [concept.plain_at(("target",)) for concept in tree.items_at(_CONCEPTS)]
    are_empty = bool(targets) and all(target == "" for target in targets)
    if takes_empty and are_empty and not tree.at(("sample", "prompts")):
        message = "missing; nothing can be seen of the empty target, so name a prompt to draw"
        yield tree.problem(("sample", "prompts"), message)
    if num_expanded > MAX_EXPANDED_CONCEPTS:
        message = f"vary multiplies to {num_expanded} concepts; at most {MAX_EXPANDED_CONCEPTS}"
        yield tree.problem(_CONCEPTS, message)


def _reports_costs(method: Plugin) -> bool:
    return bool(method.constants.get("SOLVES") and method.constants.get("ERASES"))


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
    tree: Node,
    path: tuple[str | int, ...],
    concept: Node,
    required: tuple[str, ...],
    *,
    takes_empty: bool,
) -> Iterator[Problem]:
    target = concept.plain_at(("target",))
    # "" is a real prompt, the model's unconditional prediction: as a target it moves all images.
    if isinstance(target, str) and not target.strip() and not (takes_empty and not target):
        yield tree.problem((*path, "target"), "the prompt is empty")
    positive, negative = (concept.plain_at((field,)) for field in ("positive", "negative"))
    same = isinstance(positive, str) and positive == negative
    if same and {"positive", "negative"} <= set(required):
        message = "the same prompt as positive: there is no direction between them"
        yield tree.problem((*path, "negative"), message)


def _check_placeholders(
    tree: Node, path: tuple[str | int, ...], concept: Node
) -> Iterator[Problem]:
    keys = list(concept.section_at(("vary",)))
    shared = [name for place, node in _shared(tree) for name in _names(tree, place, node)]
    used = {name for name in shared if isinstance(name, str)}
    for field, text_node in _texts(concept):
        place = (*path, *field)
        for name in _names(tree, place, text_node):
            if isinstance(name, Problem):
                yield name
                continue
            used.add(name)
            if name not in keys:
                listed = f"vary has {', '.join(map(clean, keys))}" if keys else "there is no vary"
                near = nearest(name, keys)
                message = f"{{{clean(name)}}} is not a key of vary ({listed})"
                meant = f"{{{near}}}" if near else None
                yield tree.problem(place, message, meant)
    for key in keys:
        if key not in used:
            message = f"no prompt of this concept uses {{{clean(key, limit=40)}}}"
            yield tree.problem((*path, "vary", key), message)


def _check_shared(tree: Node) -> Iterator[Problem]:
    """Yield what is wrong with the prompts for all concepts, which each of them has to vary."""
    varied = [
        set(concept.section_at(("vary",)))
        for concept in tree.items_at(_CONCEPTS)
        if isinstance(concept.data, dict)
    ]
    for path, node in _shared(tree):
        if not node.data.strip():
            yield tree.problem(path, "the prompt is empty")
        for name in _names(tree, path, node):
            if isinstance(name, Problem):
                yield name
            elif not all(name in keys for keys in varied):
                message = f"{{{clean(name)}}} has to be a key of every concept's vary"
                yield tree.problem(path, message)


def _names(tree: Node, path: tuple[str | int, ...], node: Node) -> Iterator[str | Problem]:
    """Yield the names of a prompt's placeholders, and what is wrong with how they are written."""
    try:
        parts = list(string.Formatter().parse(node.data))
    except ValueError:
        message = "a brace is not closed; write {{ or }} for a brace of the prompt itself"
        yield tree.problem(path, message)
        return
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if form or conversion or not name.isidentifier():
            message = f"a placeholder is {{name}} and nothing more, got {quote('{' + name + '}')}"
            yield tree.problem(path, message)
        else:
            yield name


def _shared(tree: Node) -> Iterator[tuple[tuple[str | int, ...], Node]]:
    """Yield the prompts that stand beside the concepts, for all of them."""
    for field in ("preserve", "watch"):
        for index, item in enumerate(tree.items_at(("method", field))):
            if isinstance(item.data, str):
                yield ("method", field, index), item


def _texts(concept: Node) -> Iterator[tuple[tuple[str | int, ...], Node]]:
    for field in ("target", "positive", "negative", "neutral"):
        node = concept.child(field)
        if node is not None and isinstance(node.data, str):
            yield (field,), node
    for index, item in enumerate(concept.items_at(("preserve",))):
        if isinstance(item.data, str):
            yield ("preserve", index), item
