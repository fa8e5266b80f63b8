"""Checks of measures: the models that they read with, and what they can be used for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loba_tui.core.names import commit_problem
from loba_tui.core.plugins import Plugin, Plugins
from loba_tui.core.recipe.checks.choices import Path, described
from loba_tui.core.recipe.measure_models import MODEL_CONSTANT, is_hub_id
from loba_tui.core.recipe.problems import Problem
from loba_tui.core.recipe.schema import SampleSection
from loba_tui.core.recipe.tree import Node
from loba_tui.models import BUILTIN_PREFIX, builtin_clip_names

MEASURE, PRESERVE = ("proof", "measure"), ("proof", "preserve")


def check_measures(
    tree: Node, chosen: Mapping[Path, tuple[str, str]], plugins: Plugins
) -> Iterator[Problem]:
    """Yield what is wrong with the measures that a recipe names, beside their options' types."""
    for path, (kind, name) in chosen.items():
        plugin = described(kind, name, plugins) if kind == "measures" else None
        if plugin is None:
            continue
        if isinstance(plugin.constants.get(MODEL_CONSTANT), str):
            yield from _check_model(tree, path, plugin.constants[MODEL_CONSTANT])
        if path == MEASURE and plugin.constants.get("COMPARES"):
            yield from _check_compared(tree, path, name)
        if path[:-1] == PRESERVE:
            yield from _check_within(tree, path, plugin)


def _check_model(tree: Node, path: Path, kind: str) -> Iterator[Problem]:
    """Yield a model that is not there, or a hub model whose figures would change with its branch.

    A folder is looked for when the run begins, as base models are.
    """
    model, revision = tree.plain_at((*path, "model")), tree.plain_at((*path, "revision"))
    if not isinstance(model, str) or not (revision is None or isinstance(revision, str)):
        return
    known = [BUILTIN_PREFIX + name for name in builtin_clip_names()] if kind == "clip" else []
    if model.startswith(BUILTIN_PREFIX) and model not in known:
        expected = f"one of {', '.join(known)}, a folder or a hub id" if known else "a hub id"
        yield tree.problem((*path, "model"), f"expected {expected}, got {model}")
    elif is_hub_id(model):
        if revision is None or commit_problem(revision):
            message = (
                f"name the commit of {model}, 40 hex digits: the hub's page of the model has it"
                " under Files and versions, and figures of two revisions do not compare"
            )
            at = "revision" if revision is not None else "model"
            yield tree.problem((*path, at), message)
    elif revision is not None:
        message = f"{model} is not a hub model and has no revisions; leave it out"
        yield tree.problem((*path, "revision"), message)


def _check_compared(tree: Node, path: Path, name: str) -> Iterator[Problem]:
    """Yield a measure that compares with scale 0 where values have to rise along the scales."""
    if tree.plain_at(("proof", "erased")) is not None:
        yield tree.problem(
            (*path, "name"), f"{name} gives no labels, so nothing can be erased by it"
        )
        return
    scales = tree.plain_at(("sample", "scales"))
    known: Any = SampleSection().scales if scales is None else scales
    numbers = [each for each in known if isinstance(each, int | float)]
    if any(each < 0 for each in numbers) and any(each > 0 for each in numbers):
        message = (
            f"{name} compares with scale 0, so it moves the same way on both sides of it;"
            " name it in proof.preserve, or let sample.scales be of one side"
        )
        yield tree.problem((*path, "name"), message)


def _check_within(tree: Node, path: Path, plugin: Plugin) -> Iterator[Problem]:
    """Yield a number whose zero means nothing, where the recipe does not say how far it may be.

    Such a measure says so by `KEPT_WITHIN = None`.
    """
    none_is_usual = "KEPT_WITHIN" in plugin.constants and plugin.constants["KEPT_WITHIN"] is None
    if none_is_usual and tree.plain_at((*path, "within")) is None:
        message = f"say how far {plugin.name} may be from its value at scale 0, as in within: 1.0"
        yield tree.problem(path, message)
