"""Write the commit that was fetched into a recipe, and show what that changes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loba_tui.client.recipes.files import replace_recipe
from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.recipe.edit import set_key
from loba_tui.core.recipe.load import read_recipe_text
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.yaml_tree import read_tree
from loba_tui.core.text import clean, quote


@dataclass(frozen=True)
class Pinning:
    """A recipe's text as it is, and as it is with the commit."""

    path: Path
    before: str
    after: str

    @property
    def changes(self) -> bool:
        """Say whether anything is to be written."""
        return self.before != self.after

    def lines(self) -> Iterator[str]:
        """Yield the difference for reading."""
        shown = clean(self.path)
        if not self.changes:
            yield f"{shown}: base_model.revision is that commit already"
            return
        before, after = self.before.splitlines(), self.after.splitlines()
        for line in difflib.unified_diff(before, after, shown, shown, lineterm="", n=1):
            yield clean(line)

    def write(self) -> None:
        """Replace the recipe.

        Raises:
            ResourceError: It cannot be written.
        """
        try:
            replace_recipe(self.path, self.after.encode())
        except OSError as error:
            raise ResourceError(
                f"{clean(self.path)} cannot be written: {error.strerror or error}.",
                "The commit stands above; write it as base_model.revision.",
            ) from error


def plan_pinning(path: Path, model_id: str, commit: str) -> Pinning:
    """Return what it means to pin a recipe's base model to a commit; nothing is written.

    Raises:
        RecipeError: The recipe cannot be read, or its base model is another one.
    """
    text = read_recipe_text(path)
    tree, problems = read_tree(text, str(path))
    if problems:
        raise ProblemsFound(problems)
    node = tree.child("base_model")
    node = node.child("id") if node is not None else None
    named = node.data if node is not None else None
    if named != model_id:
        is_what = f"is {quote(named)}" if named is not None else "is not given"
        raise RecipeError(
            f"{node.place if node is not None else clean(path)}: base_model.id {is_what}, and "
            f"{quote(model_id)} is to be fetched.",
            "Only the recipe's own base model can be pinned in it.",
        )
    return Pinning(path, text, set_key(text, ["base_model", "revision"], commit, origin=str(path)))
