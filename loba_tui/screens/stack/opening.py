"""Which recipe the stack editor opens, and reading it."""

from __future__ import annotations

from pathlib import Path

from loba_tui.client.context import Context
from loba_tui.client.recipes import files as recipe_files
from loba_tui.client.recipes.files import RecipeFile
from loba_tui.core.errors import LobaError
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe import shipped
from loba_tui.core.recipe.load import read_recipe_text
from loba_tui.screens.stack.model import StackModel


def first_file(context: Context) -> RecipeFile:
    """Return the recipe that an editor opens when none was asked for."""
    files = recipe_files.listing(Path.cwd(), context.ledger)
    example = [file for file in files if file.path == shipped.find("slider")]
    local = [file for file in files if file.origin == "local" and file.path.parent == Path.cwd()]
    return (local or example or files)[0]


def opened(file: RecipeFile, plugins: Plugins) -> tuple[RecipeFile, StackModel | None, str]:
    """Read a recipe; one with problems is shown with them."""
    try:
        text = read_recipe_text(file.path)
        return file, StackModel(text, file.label, plugins=plugins), ""
    except LobaError as error:
        return file, None, str(error)
