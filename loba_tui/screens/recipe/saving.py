"""Opening and writing a recipe from a screen: the diff first; a copy where it is not ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import time

from loba_tui.client.recipes import files as recipe_files
from loba_tui.client.recipes.files import RecipeFile
from loba_tui.core.recipe.diff import text_diff
from loba_tui.screens.base import LobaScreen
from loba_tui.widgets.dialogs import Choice, ChoiceDialog, ConfirmDialog, LineDialog
from loba_tui.widgets.line import Piece

_TONES = {"+": "good", "-": "bad", "@": "dim"}


def diff_rows(lines: Sequence[str]) -> list[list[Piece]]:
    """Return the lines of a diff as rows; their first character says what the colour says."""
    return [[(line, _TONES.get(line[:1], ""))] for line in lines]


def choose_recipe(screen: LobaScreen, then: Callable[[RecipeFile], None]) -> None:
    """Let one of all recipes be chosen."""

    def choose(files: list[RecipeFile]) -> None:
        known = {str(file.path): file for file in files}
        choices = [Choice(key, file.label, file.origin) for key, file in known.items()]

        def chosen(key: str | None) -> None:
            if key is not None:
                then(known[key])

        screen.app.push_screen(ChoiceDialog("Open which recipe?", choices), chosen)

    screen.work(lambda: recipe_files.listing(Path.cwd(), screen.context.ledger), choose)


def ask_to_save(
    screen: LobaScreen,
    file: RecipeFile,
    text: str,
    *,
    was: str,
    done: Callable[[RecipeFile], None],
) -> None:
    """Show what saving changes, and do it after a yes.

    Args:
        screen: Asks, and tells what went wrong.
        file: Where the text came from; shipped recipes and those of runs get a copy.
        text: The new text.
        was: What the file held when it was read.
        done: Called with the file that holds the text then.
    """
    if not file.is_writable:
        _ask_for_name(screen, file, lambda path: _confirm(screen, path, text, was, done, new=True))
        return
    _confirm(screen, file.path, text, was, done, new=False)


def _confirm(
    screen: LobaScreen,
    path: Path,
    text: str,
    was: str,
    done: Callable[[RecipeFile], None],
    *,
    new: bool,
) -> None:
    rows = diff_rows(text_diff(was, text)) or [["It differs in nothing."]]

    def answered(yes: bool | None) -> None:
        if yes:
            screen.work(
                lambda: recipe_files.write(path, text, was=None if new else was),
                lambda _: done(RecipeFile(path, path.name, "local", time())),
            )

    title = f"Write {path.name} as a new recipe?" if new else f"Write {path.name}?"
    screen.app.push_screen(ConfirmDialog(title, rows, "write"), answered)


def _ask_for_name(screen: LobaScreen, file: RecipeFile, then: Callable[[Path], None]) -> None:
    why = "comes with the package" if file.origin == "shipped" else "is the record of a run"
    rows: list[list[Piece]] = [[f"{file.label} {why} and stays as it is."], ["Name a copy:"]]
    stem = Path(file.label).stem if file.origin == "shipped" else file.path.parent.name

    def answered(name: str | None) -> None:
        if name is not None:
            then(Path(name).expanduser().absolute())

    dialog = LineDialog("Save as", rows, value=f"my-{stem}.yaml"[-64:], check=_check_name)
    screen.app.push_screen(dialog, answered)


def _check_name(name: str) -> str:
    path = Path(name).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        return "A recipe's name ends in .yaml"
    if path.exists():
        return "There is such a file already."
    return "" if path.absolute().parent.is_dir() else f"There is no folder {path.parent}."
