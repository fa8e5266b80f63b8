"""Rows of the Recipe screen: recipes, their problems, and how two of them differ."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loba_tui.client.recipes import files as recipe_files
from loba_tui.client.recipes.files import RecipeFile
from loba_tui.core.errors import LobaError
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.diff import differences, text_diff
from loba_tui.core.recipe.load import check_text, parse_text, read_recipe_text
from loba_tui.core.recipe.new import new_recipe
from loba_tui.core.recipe.problems import Problem, ProblemsFound
from loba_tui.core.units import show_short_age
from loba_tui.screens.recipe.saving import diff_rows
from loba_tui.widgets.line import Piece
from loba_tui.widgets.table_rows import Cell, Column, Row

COLUMNS = (
    Column("recipe", "recipe", 0, least=12),
    Column("from", "from", 7),
    Column("age", "age", 4, "right", at_least=36),
)
_MOST_DIFF_LINES = 600


@dataclass(frozen=True)
class Opened:
    """A recipe as it was read; the problem says why it could not be, then there is no text."""

    file: RecipeFile
    text: str
    problem: str = ""


@dataclass
class Drafts:
    """Texts that were typed and not written, by file."""

    _texts: dict[Path, str] = field(default_factory=dict)

    def has(self, path: Path) -> bool:
        """Say whether something of a file is not written."""
        return path in self._texts

    def text_of(self, found: Opened) -> str:
        """Return what was typed, else what is in the file."""
        return self._texts.get(found.file.path, found.text)

    def keep(self, found: Opened, text: str) -> None:
        """Keep what was typed; what is the file's text again is no draft."""
        if text == found.text:
            self.forget(found.file.path)
        else:
            self._texts[found.file.path] = text

    def forget(self, path: Path) -> None:
        self._texts.pop(path, None)


def opened(file: RecipeFile) -> Opened:
    """Read a recipe; what cannot be read is shown with the reason."""
    try:
        return Opened(file, read_recipe_text(file.path))
    except LobaError as error:
        return Opened(file, "", str(error))


def problems_of(found: Opened, text: str, plugins: Plugins) -> list[Problem]:
    """Return everything wrong with a text, in its order."""
    name = found.file.label
    if found.problem:
        return [Problem(name, 0, 0, "", found.problem.replace("\n", " "))]
    try:
        return check_text(text, name, plugins=plugins)
    except LobaError as error:  # a token, which is not repeated
        return [Problem(name, 0, 0, "", str(error).replace("\n", " "), refused=True)]


def file_row(file: RecipeFile, *, is_draft: bool) -> Row:
    """Return a recipe as a row."""
    age = max(0.0, time.time() - file.modified)
    label = f"{'* ' if is_draft else ''}{file.label}"
    return Row(
        str(file.path),
        (
            Cell(label, "warn" if is_draft else ""),
            Cell(file.origin, "dim"),
            Cell(show_short_age(age) if file.modified else "", "dim"),
        ),
        (file.label, file.origin, age),
    )


def problem_rows(
    problems: Sequence[Problem], here: Sequence[Problem], width: int, height: int
) -> list[list[Piece]]:
    """Return as many problems as there is room for, those of the line at hand first."""
    if not problems:
        return [[("✓ valid", "good")]]
    rows: list[list[Piece]] = []
    ordered = [*here, *(problem for problem in problems if problem not in here)]
    for problem in ordered:
        where = f"{problem.line}:{problem.column} " if problem.line else ""
        key = f"{problem.key}: " if problem.key else ""
        text = f"! {where}{key}{problem.text}"
        lines = textwrap.wrap(text, max(20, width), subsequent_indent="  ")
        # The line at hand is told in full, the others in a row each.
        shown = lines if problem in here or len(ordered) == 1 else lines[:1]
        rows += [[(line, "bad")] for line in shown]
    if len(rows) > max(1, height):
        rows = rows[: max(0, height - 1)]
        rows.append([(f"{len(problems)} problems; ctrl+n goes to the next", "dim")])
    return rows


def comparison_rows(
    file: RecipeFile, text: str, other: RecipeFile, plugins: Plugins
) -> list[list[Piece]]:
    """Return in what two recipes differ: what they come to, then how they are written.

    Raises:
        RefusedError: One holds what looks like an access token.
        ProblemsFound: The other one cannot be read.
    """
    theirs = read_recipe_text(other.path)
    rows: list[list[Piece]] = [[("What they come to", "strong")]]
    try:
        found = differences(
            parse_text(text, file.label, plugins=plugins),
            parse_text(theirs, other.label, plugins=plugins),
        )
        rows += [[f"  {line}"] for each in found for line in textwrap.wrap(each.line, 86)]
        rows += [] if found else [["  the same"]]
    except ProblemsFound as error:
        rows += [[(f"  {line}", "bad")] for line in str(error).splitlines()]
    rows += [[""], [("How they are written", "strong")]]
    lines = text_diff(text, theirs)
    rows += diff_rows(lines[:_MOST_DIFF_LINES]) or [["  the same"]]
    if len(lines) > _MOST_DIFF_LINES:
        rows.append([(f"… and {len(lines) - _MOST_DIFF_LINES} lines more", "dim")])
    return rows


def new_recipe_file(name: str, plugins: Plugins) -> RecipeFile:
    """Write a small recipe that trains on the embedded model.

    Raises:
        LobaError: The name cannot be one, or there is such a file.
    """
    path = Path(f"{name}.yaml").absolute()
    recipe_files.write(path, new_recipe(name, file=path.name, plugins=plugins), was=None)
    return RecipeFile(path, path.name, "local", time.time())
