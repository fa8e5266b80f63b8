"""Problems of a recipe with its schema and its drop-ins' options, in plain words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from loba_tui.core.option_types import describe_type, type_at
from loba_tui.core.plugins import Plugins, existing_path
from loba_tui.core.plugins.meant import meant_value
from loba_tui.core.recipe.checks.choices import Path, chosen_in, described, is_choice, keys_of
from loba_tui.core.recipe.migrate.flags import V0_FLAGS
from loba_tui.core.recipe.problems import Problem, dotted
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.tree import Node
from loba_tui.core.text import clean, nearest, quote


def check_schema(tree: Node, plugins: Plugins) -> tuple[Recipe | None, list[Problem]]:
    """Return the recipe, or None and the problems that pydantic finds."""
    # Strict JSON is the mode where lists are tuples, whole numbers are numbers, and nothing else
    # is turned into something that was not written.
    try:
        return Recipe.model_validate_json(json.dumps(tree.plain()), strict=True), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    plain = tree.plain()
    # A list with a wrong item is not also "too short".
    inner = {tuple(detail["loc"][:-1]) for detail in details if detail["type"] != "missing"}
    outer = [detail for detail in details if tuple(detail["loc"]) not in inner]
    return None, [_reword(tree, plain, detail, plugins) for detail in outer]


def _reword(tree: Node, plain: Any, detail: Any, plugins: Plugins) -> Problem:
    """Return one of pydantic's errors as a problem in plain language."""
    location, kind = tuple(detail["loc"]), detail["type"]
    if kind in ("missing", "extra_forbidden"):
        if kind == "missing":
            message = f"missing; expected {describe_type(type_at(Recipe, location))}"
            return tree.problem(location, message)
        return _unknown_key(tree, location, plugins)
    path, part = existing_path(location, plain)
    if kind == "value_error":
        return tree.problem(path, clean(detail["ctx"]["error"], limit=200))
    if path == ("name",) and isinstance(part, str):
        message = f"expected letters, digits, '.', '_' or '-' (64 at most), got {quote(part)}"
        return tree.problem(path, message)
    expected = type_at(Recipe, path)
    message = f"expected {describe_type(expected)}, got {_shown(part)}"
    if isinstance(part, str) and is_choice(path):
        return tree.problem(path, message, f"{{name: {clean(part, limit=40)}}}")
    if describe_type(expected).startswith("text"):
        if isinstance(part, dict | list):
            message += "; text that begins with { or [ needs quotes"
        elif isinstance(part, bool | int | float):
            message += "; text that looks like a number, or is true or false, needs quotes"
    return tree.problem(path, message, meant_value(part, expected))


def _shown(value: Any) -> str:
    """Return a value as a message has it; a number too long to be one is text in the tree."""
    is_number = isinstance(value, str) and value.lstrip("+-").isdecimal() and len(value) > 20
    return f"a number of {len(value.lstrip('+-'))} digits" if is_number else quote(value)


def check_choice(
    tree: Node, path: Path, kind: str, name: str, plugins: Plugins
) -> Iterator[Problem]:
    """Yield what is wrong with a section that chooses a drop-in, its options included."""
    declared = keys_of(type_at(Recipe, path)) or ["name"]
    section = tree.section_at(path)
    given = {key: part.plain() for key, part in section.items() if key not in declared}
    plugin = described(kind, name, plugins)
    options = list(plugin.options) if plugin else None
    for problem in plugins.check_options(kind, name, given):
        full = (*path, *problem.key_path)
        suggestion = problem.suggestion
        if options is not None and full[len(path)] in given and full[len(path)] not in options:
            suggestion = _meant(tree, full, [*declared, *options], plugins)
        message = problem.message + _after_comma(full)
        yield tree.problem(full, message, suggestion, refused=problem.refused)


def _unknown_key(tree: Node, path: Path, plugins: Plugins) -> Problem:
    section, key = path[:-1], str(path[-1])
    siblings = keys_of(type_at(Recipe, section))
    if "token" in key.lower():
        message = "a recipe holds no token; log in once with: hf auth login"
        return tree.problem(path, message)
    suggestion = _meant(tree, path, siblings, plugins)
    message = "not a key of a recipe" if not section else f"not a key of {dotted(section)}"
    if suggestion is None:
        message += f" ({', '.join(siblings)})"
    return tree.problem(path, message + _after_comma(path), suggestion)


def _after_comma(path: Path) -> str:
    """Return the likely reason for a key that is a number: `{lr: 0,0001}` has two keys."""
    is_number = isinstance(path[-1], str) and path[-1].isdecimal()
    return "; a decimal fraction is written with a point: 0.1" if is_number else ""


def _meant(tree: Node, path: Path, siblings: Sequence[str], plugins: Plugins) -> str | None:
    """Return what an unknown key most likely is: a sibling, or a key of another section.

    The very name in another section is a likelier slip than a name that merely resembles it here.
    """
    key = str(path[-1])
    elsewhere = _elsewhere_paths(tree, path, plugins)
    return (
        nearest(key, siblings, cutoff=0.85)
        or elsewhere.get(key)
        or nearest(key, siblings)
        or elsewhere.get(nearest(key, elsewhere, cutoff=0.8) or "")
    )


def _elsewhere_paths(tree: Node, path: Path, plugins: Plugins) -> dict[str, str]:
    """Return the full path of every key of the other sections by its last name."""
    known: dict[str, str] = {}
    for found in _known_paths(tree, plugins):
        if found[:-1] != path[:-1]:
            known.setdefault(str(found[-1]), dotted(found))
    for flag, (_, _, flag_path) in V0_FLAGS.items():
        if flag_path and flag_path[:-1] != path[:-1]:
            known.setdefault(flag, dotted(flag_path))
    known.setdefault("learning_rate", "optimizer.lr")
    return known


def _known_paths(tree: Node, plugins: Plugins) -> Iterator[Path]:
    """Yield every key that this recipe could have: the schema's, and its drop-ins' options."""

    def visit(section: type[BaseModel], path: Path) -> Iterator[Path]:
        for name, field in section.model_fields.items():
            yield (*path, name)
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from visit(field.annotation, (*path, name))

    yield from visit(Recipe, ())
    for path, (kind, name) in chosen_in(tree):
        plugin = described(kind, name, plugins)
        yield from ((*path, option) for option in (plugin.options if plugin else ()))
