"""From a tree of YAML nodes to a Recipe, or to everything that is wrong with it, all at once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from loba_tui.core.errors import LobaError
from loba_tui.core.option_types import choices, describe_type, type_at
from loba_tui.core.plugins import Plugin, Plugins, existing_path
from loba_tui.core.recipe.checks.concepts import check_concepts, check_prompts
from loba_tui.core.recipe.checks.data import check_data
from loba_tui.core.recipe.checks.method import check_layers, check_looks, check_unused
from loba_tui.core.recipe.migrate.flags import V0_FLAGS, is_version_0
from loba_tui.core.recipe.problems import Problem, dotted
from loba_tui.core.recipe.schema import RECIPE_VERSION, AdapterSection, Choice, Recipe
from loba_tui.core.recipe.tree import Node
from loba_tui.core.text import clean, nearest, quote
from loba_tui.models import BUILTIN_PREFIX, builtin_names

Path = tuple[str | int, ...]

# Which sections choose a drop-in, and of which kind; a list of choices is named by its own key.
CHOICES: tuple[tuple[Path, str], ...] = (
    (("method",), "methods"),
    (("adapter",), "adapters"),
    (("optimizer",), "optimizers"),
    (("scheduler", "model"), "model"),
    (("scheduler", "layer"), "layer"),
    (("scheduler", "noise"), "noise"),
    (("scheduler", "timestep"), "timestep"),
    (("loss",), "losses"),
    (("loss", "weighting"), "weightings"),
    (("noise",), "noising"),
    (("sample", "noise"), "noise"),
    (("proof", "measure"), "measures"),
    (("proof", "preserve"), "measures"),
)
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,4})?")


def chosen_drop_ins(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield kind and name of every drop-in that a recipe chooses, defaults included."""
    for path, kind in CHOICES:
        node: Any = recipe
        for step in path:
            node = getattr(node, str(step))
        for choice in node if isinstance(node, tuple) else (node,):
            if isinstance(choice, Choice):
                yield kind, choice.name


def check_tree(tree: Node, plugins: Plugins) -> tuple[Recipe | None, list[Problem]]:
    """Return the recipe, or None and every problem found.

    Args:
        tree: The whole recipe.
    """
    problems = _check_version(tree)
    if problems is not None:
        return None, problems
    problems = _check_characters(tree)
    if problems:
        return None, problems
    chosen = dict(_chosen(tree))
    # What knows most about a key comes first: only the first problem of a key is shown.
    method = _described(*chosen.get(("method",), ("methods", "")), plugins)
    problems = [*check_concepts(tree, method), *check_prompts(tree), *check_data(tree, method)]
    told = {problem.key for problem in problems}
    recipe, found = _check_schema(tree, plugins)
    # The schema says of a whole concept what has been said of its prompts.
    problems += [p for p in found if not any(key.startswith(f"{p.key}.") for key in told)]
    problems += _check_numbers(tree)
    for path, (kind, name) in chosen.items():
        problems += _check_choice(tree, path, kind, name, plugins)
    problems += [*_check_device(tree), *_check_builtin(tree)]
    problems += [*check_unused(tree, method), *check_looks(tree, method)]
    adapter = _described(*chosen.get(("adapter",), ("adapters", AdapterSection().name)), plugins)
    problems += check_layers(tree, method, adapter)
    return (None if problems else recipe), _without_repeats(problems)


def _check_version(tree: Node) -> list[Problem] | None:
    """Return the problems that make every other check meaningless, or None."""
    if not isinstance(tree.data, dict):
        message = f"expected {describe_type(Recipe)}, got {quote(tree.plain())}"
        return [Problem.at(tree.place, "", message)]
    version = tree.child("version")
    if is_version_0({key: node.data for key, node in tree.data.items()}):
        message = (
            "this is a version 0 recipe; turn it into version 1 with: loba recipe migrate "
            + clean(tree.place.file)
        )
        return [Problem.at(tree.locate(("version",)), "version", message)]
    if version is None or not isinstance(version.data, int):
        return None  # missing, or no number: an ordinary error among the others
    # True equals 1 in Python, but not here.
    if isinstance(version.data, bool) or version.data != RECIPE_VERSION:
        newer = "made for a newer LOBA-Trainer; update it to read this file"
        message = f"expected {RECIPE_VERSION}, got {quote(version.data)}"
        message += f": {newer}" if version.data > RECIPE_VERSION else ""
        return [Problem.at(tree.locate(("version",)), "version", message)]
    return None


def _check_characters(tree: Node) -> list[Problem]:
    """Find halves of surrogate pairs, which an escape can write and no UTF-8 file can hold."""
    bad = []
    for path, node in tree.walk():
        texts = [*node.keys] + ([node.data] if isinstance(node.data, str) else [])
        if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
            bad.append(Problem.at(tree.locate(path), clean(dotted(path)), "not valid text"))
    return bad


def _check_numbers(tree: Node) -> list[Problem]:
    return [
        Problem.at(tree.locate(path), dotted(path), "expected a finite number")
        for path, node in tree.walk()
        if isinstance(node.data, float) and not math.isfinite(node.data)
    ]


def _check_schema(tree: Node, plugins: Plugins) -> tuple[Recipe | None, list[Problem]]:
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
        path, key = location, clean(dotted(location), limit=120)
        if kind == "missing":
            message = f"missing; expected {describe_type(type_at(Recipe, path))}"
            return Problem.at(tree.locate(path), key, message)
        return _unknown_key(tree, path, plugins)
    path, part = existing_path(location, plain)
    key = clean(dotted(path), limit=120)
    if kind == "value_error":
        message = clean(detail["ctx"]["error"], limit=200)
        return Problem.at(tree.locate(path), key, message)
    if path == ("name",) and isinstance(part, str):
        message = f"expected letters, digits, '.', '_' or '-' (64 at most), got {quote(part)}"
        return Problem.at(tree.locate(path), key, message)
    expected = type_at(Recipe, path)
    message = f"expected {describe_type(expected)}, got {quote(part)}"
    if isinstance(part, str) and _is_choice(path):
        return Problem.at(tree.locate(path), key, message, f"{{name: {clean(part, limit=40)}}}")
    if isinstance(part, dict | list) and describe_type(expected).startswith("text"):
        message += "; text that begins with { or [ needs quotes"
    suggestion = nearest(part, choices(expected)) if isinstance(part, str) else None
    return Problem.at(tree.locate(path), key, message, suggestion)


def _is_choice(path: Path) -> bool:
    return any(
        path == choice or path[:-1] == choice == ("proof", "preserve") for choice, _ in CHOICES
    )


def _unknown_key(tree: Node, path: Path, plugins: Plugins) -> Problem:
    section, key = path[:-1], str(path[-1])
    siblings = _keys_of(type_at(Recipe, section))
    place, shown = tree.locate(path), clean(dotted(path), limit=120)
    if "token" in key.lower():
        message = "a recipe holds no token; log in once with: hf auth login"
        return Problem.at(place, shown, message)
    suggestion = _meant(tree, path, siblings, plugins)
    message = "not a key of a recipe" if not section else f"not a key of {dotted(section)}"
    if suggestion is None:
        message += f" ({', '.join(siblings)})"
    return Problem.at(place, shown, message, suggestion)


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
    for path, (kind, name) in _chosen(tree):
        plugin = _described(kind, name, plugins)
        yield from ((*path, option) for option in (plugin.options if plugin else ()))


def _keys_of(section: Any) -> list[str]:
    """Return the keys that a section's type declares."""
    while hasattr(section, "__metadata__"):
        section = section.__origin__
    return list(section.model_fields) if hasattr(section, "model_fields") else []


def _chosen(tree: Node) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Yield the path, kind and name of every drop-in that the recipe chooses, defaults included."""
    for path, kind in CHOICES:
        node = tree.at(path)
        if node is None:
            default = default_name(path)
            if default is not None:
                yield path, (kind, default)
        elif isinstance(node.data, tuple):
            for index, item in enumerate(node.data):
                if (name := _name_of(item, None)) is not None:
                    yield (*path, index), (kind, name)
        elif (name := _name_of(node, default_name(path))) is not None:
            yield path, (kind, name)


def _name_of(node: Node, default: str | None) -> str | None:
    name = node.child("name")
    if name is None:
        return default if isinstance(node.data, dict) else None
    return name.data if isinstance(name.data, str) and name.data else None


def default_name(path: Path) -> str | None:
    """Return the drop-in that a section has when the recipe does not name one."""
    value: Any = Recipe.model_fields[str(path[0])].default
    for step in path[1:]:
        value = getattr(value, str(step), None)
    if isinstance(value, Choice):
        return value.name
    return None


def _check_choice(
    tree: Node, path: Path, kind: str, name: str, plugins: Plugins
) -> Iterator[Problem]:
    node = tree.at(path)
    declared = _keys_of(type_at(Recipe, path)) or ["name"]
    given: dict[str, Any] = {}
    if node is not None and isinstance(node.data, dict):
        given = {key: part.plain() for key, part in node.data.items() if key not in declared}
    plugin = _described(kind, name, plugins)
    options = list(plugin.options) if plugin else None
    for problem in plugins.check_options(kind, name, given):
        full = (*path, *problem.key_path)
        suggestion = problem.suggestion
        if options is not None and full[len(path)] in given and full[len(path)] not in options:
            suggestion = _meant(tree, full, [*declared, *options], plugins)
        yield Problem.at(
            tree.locate(full),
            clean(dotted(full), limit=120),
            problem.message,
            suggestion,
            refused=problem.refused,
        )


def _described(kind: str, name: str, plugins: Plugins) -> Plugin | None:
    """Return what a drop-in says of itself; None if there is none, or a plugin is unusable.

    What is wrong with a plugin is told where it is chosen, by `check_options`.
    """
    try:
        return plugins.describe(kind, name)
    except LobaError:
        return None


def _check_device(tree: Node) -> list[Problem]:
    path = ("base_model", "device")
    node = tree.at(path)
    if node is None or not isinstance(node.data, str) or _DEVICE.fullmatch(node.data):
        return []
    message = f"expected auto, cpu, mps, cuda, cuda:N or cuda:122, got {quote(node.data)}"
    near = nearest(node.data, ("auto", "cpu", "mps", "cuda", "cuda:122"))
    return [Problem.at(tree.locate(path), dotted(path), message, near)]


def _check_builtin(tree: Node) -> list[Problem]:
    """Find a built-in model that is not there; others are looked for when they are loaded."""
    path = ("base_model", "id")
    node = tree.at(path)
    if node is None or not isinstance(node.data, str) or not node.data.startswith(BUILTIN_PREFIX):
        return []
    known = [BUILTIN_PREFIX + name for name in builtin_names()]
    if node.data in known:
        return []
    message = f"expected one of {', '.join(known)}, got {quote(node.data)}"
    return [Problem.at(tree.locate(path), dotted(path), message, nearest(node.data, known))]


def _without_repeats(problems: Sequence[Problem]) -> list[Problem]:
    """Keep the first problem of each key; what follows it is mostly its consequence."""
    first: dict[tuple[str, int, int, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.file, problem.line, problem.column, problem.key), problem)
    return list(first.values())
