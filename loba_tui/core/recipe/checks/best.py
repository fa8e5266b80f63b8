"""Checks of `save.best` against the sections that its figure comes from."""

from __future__ import annotations

from collections.abc import Iterator

from loba_tui.core.plugins import Plugin
from loba_tui.core.recipe.problems import Problem
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.best import BestSection
from loba_tui.core.recipe.tree import Node

_PATH = ("save", "best")


def check_best(tree: Node, recipe: Recipe | None, method: Plugin | None) -> Iterator[Problem]:
    """Yield what `save.best` lacks; nothing of a recipe that is not sound by itself."""
    if recipe is None or recipe.save.best is None:
        return
    best = recipe.save.best
    if method is not None and method.constants.get("SOLVES"):
        message = f"{method.name} computes its adapter without training, so this is unused"
        yield tree.problem(_PATH, message)
    elif best.by == "validation_loss" and recipe.validation is None:
        yield tree.problem((*_PATH, "by"), "validation_loss needs the section validation")
    elif best.by.startswith("efficacy_") and not recipe.train.efficacy_every:
        yield tree.problem((*_PATH, "by"), f"{best.by} needs train.efficacy_every")
    elif best.is_measured:
        yield from _check_measured(tree, recipe, best)


def _check_measured(tree: Node, recipe: Recipe, best: BestSection) -> Iterator[Problem]:
    if best.measure is None and recipe.proof.measure is None:
        message = f"missing; {best.by} needs it, or proof.measure"
        yield tree.problem((*_PATH, "measure"), message)
    if best.by == "measured_share" and best.label is None and recipe.proof.erased is None:
        message = "missing; measured_share needs it, or proof.erased"
        yield tree.problem((*_PATH, "label"), message)
    prompts = best.prompts or recipe.sample_prompts
    if not prompts:
        yield tree.problem((*_PATH, "prompts"), "missing; there is no prompt that could be drawn")
    proven = {*recipe.proof_prompts, *recipe.other_prompts} if recipe.proof.enabled else set()
    if same := proven & set(prompts):
        message = f"{min(same)!r} is a prompt of the proof; what is chosen by it proves nothing"
        yield tree.problem((*_PATH, "prompts"), f"{message}: name others here, or in proof.prompts")
