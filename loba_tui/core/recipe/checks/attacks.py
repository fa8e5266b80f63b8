"""Checks of `proof.attacks` against the prompts that attacks are made with."""

from __future__ import annotations

from collections.abc import Iterator

from loba_tui.core.recipe.problems import Problem
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.attacks import pattern_of
from loba_tui.core.recipe.tree import Node
from loba_tui.core.text import quote


def check_attacks(tree: Node, recipe: Recipe) -> Iterator[Problem]:
    """Yield `proof.attacks` where no prompt of the proof names the concept."""
    section = recipe.proof.attacks
    word = (section and section.word) or recipe.proof.erased
    if section is None or word is None:
        return
    if not any(pattern_of(word).search(prompt) for prompt in recipe.proof_prompts):
        message = f"no prompt of the proof has the word {quote(word)}, which is asked for otherwise"
        yield tree.problem(
            ("proof", "attacks", "word"), f"{message}; name the word that the prompts have"
        )
