"""From a tree of YAML nodes to a Recipe, or to everything that is wrong with it, all at once."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from loba_tui.core.option_types import describe_type
from loba_tui.core.plugins import Plugins
from loba_tui.core.plugins.meant import meant_name
from loba_tui.core.recipe.checks.attacks import check_attacks
from loba_tui.core.recipe.checks.best import check_best
from loba_tui.core.recipe.checks.choices import chosen_in, described
from loba_tui.core.recipe.checks.concepts import check_concepts, check_prompts
from loba_tui.core.recipe.checks.data import check_data
from loba_tui.core.recipe.checks.measures import check_measures
from loba_tui.core.recipe.checks.method import (
    check_calibrate,
    check_efficacy_every,
    check_init,
    check_init_from,
    check_layers,
    check_offload,
    check_prompt_reading,
    check_text_alone,
    check_text_encoders,
    check_unused,
)
from loba_tui.core.recipe.checks.names import check_names
from loba_tui.core.recipe.checks.parallel import check_parallel
from loba_tui.core.recipe.checks.schema import check_choice, check_schema
from loba_tui.core.recipe.checks.validation import check_validation
from loba_tui.core.recipe.migrate.flags import is_version_0
from loba_tui.core.recipe.problems import Problem
from loba_tui.core.recipe.schema import RECIPE_VERSION, AdapterSection, OptimizerSection, Recipe
from loba_tui.core.recipe.tree import Node
from loba_tui.core.text import clean, nearest, quote
from loba_tui.models import BUILTIN_PREFIX, builtin_names

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,4})?")


def check_tree(tree: Node, plugins: Plugins) -> tuple[Recipe | None, list[Problem]]:
    """Return the recipe that a whole tree says, or None and every problem found."""
    problems = _check_version(tree)
    if problems is not None:
        return None, problems
    problems = _check_characters(tree)
    if problems:
        return None, problems
    chosen = dict(chosen_in(tree))
    # What knows most about a key comes first: only the first problem of a key is shown.
    method = described(*chosen.get(("method",), ("methods", "")), plugins)
    problems = [*check_names(tree), *check_concepts(tree, method), *check_prompts(tree)]
    problems += [*check_data(tree, method), *check_validation(tree, method)]
    recipe, found = check_schema(tree, plugins)
    problems += found
    problems += _check_numbers(tree)
    for path, (kind, name) in chosen.items():
        problems += check_choice(tree, path, kind, name, plugins)
    problems += [*_check_device(tree), *_check_builtin(tree)]
    problems += [*check_unused(tree, method), *check_efficacy_every(tree, method)]
    adapter = described(*chosen.get(("adapter",), ("adapters", AdapterSection().name)), plugins)
    problems += check_layers(tree, method, adapter)
    problems += [*check_init_from(tree, method, adapter), *check_prompt_reading(tree, method)]
    usual = OptimizerSection().name
    optimizer = described(*chosen.get(("optimizer",), ("optimizers", usual)), plugins)
    problems += check_text_encoders(tree, method, adapter, optimizer)
    problems += [*check_init(tree, adapter), *check_text_alone(tree, method)]
    problems += [*check_offload(tree, method), *check_parallel(tree, method)]
    problems += [*check_calibrate(tree, method, adapter), *check_measures(tree, chosen, plugins)]
    problems += check_attacks(tree, recipe) if recipe is not None else ()
    problems += check_best(tree, recipe, method)
    return (None if problems else recipe), _without_repeats(problems)


def _check_version(tree: Node) -> list[Problem] | None:
    """Return the problems that make every other check meaningless, or None."""
    if not isinstance(tree.data, dict):
        message = f"expected {describe_type(Recipe)}, got {quote(tree.plain())}"
        return [Problem(*tree.place, "", message)]
    version = tree.child("version")
    if is_version_0({key: node.data for key, node in tree.data.items()}):
        message = (
            "this is a version 0 recipe; turn it into version 1 with: loba recipe migrate "
            + clean(tree.place.file)
        )
        return [tree.problem(("version",), message)]
    if version is None or not isinstance(version.data, int):
        return None  # missing, or no number: an ordinary error among the others
    # True equals 1 in Python, but not here.
    if isinstance(version.data, bool) or version.data != RECIPE_VERSION:
        newer = "made for a newer LOBA-Trainer; update it to read this file"
        message = f"expected {RECIPE_VERSION}, got {quote(version.data)}"
        message += f": {newer}" if version.data > RECIPE_VERSION else ""
        return [tree.problem(("version",), message)]
    return None


def _check_characters(tree: Node) -> list[Problem]:
    """Find halves of surrogate pairs, which an escape can write and no UTF-8 file can hold."""
    bad = []
    for path, node in tree.walk():
        texts = [*node.keys] + ([node.data] if isinstance(node.data, str) else [])
        if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
            bad.append(tree.problem(path, "not valid text"))
    return bad


def _check_numbers(tree: Node) -> list[Problem]:
    return [
        tree.problem(path, "expected a finite number")
        for path, node in tree.walk()
        if isinstance(node.data, float) and not math.isfinite(node.data)
    ]


def _check_device(tree: Node) -> list[Problem]:
    path = ("base_model", "device")
    device = tree.plain_at(path)
    if not isinstance(device, str) or _DEVICE.fullmatch(device):
        return []
    message = f"expected auto, cpu, mps, cuda, cuda:N or cuda:122, got {quote(device)}"
    near = meant_name(device, ("auto", "cpu", "mps", "cuda", "cuda:122"))
    return [tree.problem(path, message, near)]


def _check_builtin(tree: Node) -> list[Problem]:
    """Find a built-in model that is not there; others are looked for when they are loaded."""
    path = ("base_model", "id")
    model = tree.plain_at(path)
    known = [BUILTIN_PREFIX + name for name in builtin_names()]
    if not isinstance(model, str) or not model.startswith(BUILTIN_PREFIX) or model in known:
        return []
    message = f"expected one of {', '.join(known)}, got {quote(model)}"
    return [tree.problem(path, message, nearest(model, known))]


def _without_repeats(problems: Sequence[Problem]) -> list[Problem]:
    """Keep the first problem of each key; what follows it is mostly its consequence."""
    first: dict[tuple[str, int, int, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.file, problem.line, problem.column, problem.key), problem)
    return list(first.values())
