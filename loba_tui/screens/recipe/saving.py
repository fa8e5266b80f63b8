"""Opening and writing a recipe from a screen: the diff first; a copy where it is not ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import time

from loba_tui.client.recipes import files as recipe_files
from loba_tui.client.recipes.files import RecipeFile
from loba_tui.core.errors import RecipeError
from loba_tui.core.recipe.diff import text_diff
from loba_tui.core.user_folders import with_home
from loba_tui.screens.base import LobaScreen
from loba_tui.widgets.dialogs import Choice, ChoiceDialog, ConfirmDialog, LineDialog
from loba_tui.widgets.line import Piece

_TONES = {"+": "good", "-": "bad", "@": "dim"}


def diff_rows(lines: Sequence[str]) -> list[list[Piece]]:
    """Return the lines of a diff as rows; their first character says what the colour says."""
    return [[(line, _TONES.get(line[:1], ""))] for line in lines]


async def choose_recipe(
    screen: LobaScreen, title: str, files: Sequence[RecipeFile]
) -> RecipeFile | None:
    """Let one of some recipes be chosen."""
    known = {str(file.path): file for file in files}
    choices = [Choice(key, file.label, file.origin) for key, file in known.items()]
    key = await screen.ask(ChoiceDialog(title, choices))
    return known[key] if key is not None else None


async def save(screen: LobaScreen, file: RecipeFile, text: str, *, was: str) -> RecipeFile | None:
    """Show what saving changes, and do it after a yes.

    Args:
        file: Where the text came from; shipped recipes and those of runs get a copy.
        was: What the file held when it was read.

    Returns:
        The file that holds the text then; None where nothing was written.
    """
    path = file.path if file.is_writable else await _copy_path(screen, file)
    if path is None:
        return None
    rows = diff_rows(text_diff(was, text)) or [["It differs in nothing."]]
    title = f"Write {path.name}?" if file.is_writable else f"Write {path.name} as a new recipe?"
    if not await screen.ask(ConfirmDialog(title, rows, "write")):
        return None
    await screen.in_thread(recipe_files.write, path, text, was=was if file.is_writable else None)
    return RecipeFile(path, path.name, "local", time())


async def _copy_path(screen: LobaScreen, file: RecipeFile) -> Path | None:
    why = "comes with the package" if file.origin == "shipped" else "is the record of a run"
    rows: list[list[Piece]] = [[f"{file.label} {why} and stays as it is."], ["Name a copy:"]]
    stem = Path(file.label).stem if file.origin == "shipped" else file.path.parent.name
    value = f"my-{stem}.yaml"[-64:]
    name = await screen.ask(LineDialog("Save as", rows, value=value, check=_check_name))
    return with_home(name).absolute() if name is not None else None


def _check_name(name: str) -> str:
    try:
        path = with_home(name)
    except RecipeError as error:
        return error.message
    if path.suffix not in (".yaml", ".yml"):
        return "A recipe's name ends in .yaml"
    if path.exists():
        return "There is such a file already."
    return "" if path.absolute().parent.is_dir() else f"There is no folder {path.parent}."
