"""Recipes: browse, edit with problems marked as they are typed, compare, start."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from textual.app import SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import TextArea

from loba_tui.client.recipes import files as recipe_files
from loba_tui.client.recipes.files import RecipeFile
from loba_tui.core.errors import LobaError, ResourceError
from loba_tui.core.recipe.diff import text_diff
from loba_tui.core.recipe.problems import Problem
from loba_tui.screens.base import FILTER, asks
from loba_tui.screens.recipe.rows import (
    COLUMNS,
    Drafts,
    Opened,
    comparison_rows,
    file_row,
    new_recipe_file,
    opened,
    problem_rows,
    problems_of,
)
from loba_tui.screens.recipe.saving import choose_recipe, diff_rows, save
from loba_tui.screens.recipe.yaml_area import YamlArea
from loba_tui.screens.runs.starting import start_and_watch
from loba_tui.screens.table_screen import TableScreen
from loba_tui.widgets.dialogs import LineDialog, TextDialog
from loba_tui.widgets.line import Lines
from loba_tui.widgets.table import MarkTable

_TYPING_SECONDS = 0.15


class RecipeScreen(TableScreen):
    """Recipes of this folder, of the package and of runs, and an editor for them."""

    BINDING_GROUP_TITLE = "Recipe"
    HELP_TEXT = "What is typed stays here until it is written, also while another recipe is shown."
    AUTO_FOCUS = TABLE = "#files"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w,ctrl+s", "write", "write", id="recipe.write"),
        Binding("n", "start", "start it", id="recipe.start"),
        Binding("e", "editor", "$EDITOR", id="recipe.editor"),
        Binding("c", "compare", "compare", id="recipe.compare"),
        Binding("t", "stack", "stack editor", id="recipe.stack"),
        Binding("N", "new", "new recipe", show=False, id="recipe.new"),
        Binding("z", "undo", "undo", show=False, id="recipe.undo"),
        Binding("D", "diff", "what has changed", show=False, id="recipe.diff"),
        Binding("y", "copy", "copy the file's path", show=False, id="recipe.copy"),
        Binding("escape,ctrl+g", "list", "back to the list", id="recipe.list"),
        FILTER,
    ]

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[str, RecipeFile] = {}
        self._open: Opened | None = None
        self._drafts = Drafts()
        self._problems: list[Problem] = []
        self._typing: Timer | None = None

    def compose_body(self) -> Iterable[Widget]:
        with Horizontal(id="recipes"):
            yield MarkTable(COLUMNS, id="files")
            with Vertical(id="text"):
                yield YamlArea(id="yaml")
                yield Lines(id="problems")

    def shown_again(self) -> None:
        """Look for recipes, and read again what another program may have written."""
        self.work(
            lambda: recipe_files.listing(Path.cwd(), self.context.ledger),
            self._show_files,
            group="list",
            exclusive=True,
        )

    def _show_files(self, files: list[RecipeFile]) -> None:
        self._files = {str(file.path): file for file in files}
        self._show_table()
        wanted = self.loba.recipe_to_edit
        if self._open is None and wanted is not None:
            self.table.go_to(str(wanted.path))
        self._show_under_cursor()

    def _show_table(self) -> None:
        rows = [file_row(f, is_draft=self._drafts.has(f.path)) for f in self._files.values()]
        self.table.set_rows(rows)

    def _show_under_cursor(self) -> None:
        file = self.here(self._files)
        if file is not None:
            self.work(lambda: opened(file), self._show_opened, group="open", exclusive=True)

    def _show_opened(self, found: Opened) -> None:
        is_same = self._open is not None and self._open.file == found.file
        self._open = found
        area = self.query_one(YamlArea)
        text = self._drafts.text_of(found)
        area.read_only = bool(found.problem)
        if not is_same or area.text != text:
            with self.prevent(TextArea.Changed):
                area.load_text(text)
            area.show_problems(())
        self._check()
        self._tell_state()

    def _tell_state(self) -> None:
        if self._open is None:
            return
        is_draft = self._drafts.has(self._open.file.path)
        self.about(f"{self._open.file.label}{' *' if is_draft else ''}", "warn" if is_draft else "")

    def one_line(self) -> str:
        if self._open is None:
            return f"{len(self._files)} recipes"
        return f"{self._open.file.label}: {len(self._problems)} problems"

    def on_mark_table_moved(self, event: MarkTable.Moved) -> None:
        self._show_under_cursor()

    def on_mark_table_chosen(self, event: MarkTable.Chosen) -> None:
        self.query_one(YamlArea).focus()

    def action_list(self) -> None:
        self.table.focus()

    # Typing

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        if self._open is None:
            return
        was = self._drafts.has(self._open.file.path)
        self._drafts.keep(self._open, event.text_area.text)
        if was != self._drafts.has(self._open.file.path):
            self._show_table()
            self._tell_state()
        if self._typing is not None:
            self._typing.stop()
        self._typing = self.set_timer(_TYPING_SECONDS, self._check)

    def on_text_area_selection_changed(self, event: TextArea.SelectionChanged) -> None:
        self._show_problems()

    def _check(self) -> None:
        found = self._open
        if found is None:
            return
        text, plugins = self._drafts.text_of(found), self.context.plugins
        self.work(
            lambda: problems_of(found, text, plugins), self._checked, group="check", exclusive=True
        )

    def _checked(self, problems: list[Problem]) -> None:
        self._problems = problems
        self.query_one(YamlArea).show_problems(problems)
        self._show_problems()

    def _show_problems(self) -> None:
        lines, area = self.query_one("#problems", Lines), self.query_one(YamlArea)
        here = area.problems_here() if area.has_focus else ()
        lines.show(problem_rows(self._problems, here, lines.size.width, lines.size.height))

    # Actions

    def action_undo(self) -> None:
        """Take the last edit of the text back; after another recipe was shown, all of them."""
        area, found = self.query_one(YamlArea), self._open
        if area.history.undo_stack:
            area.undo()
        elif found is not None and self._drafts.has(found.file.path):
            # As an edit of its own, so that ctrl+y brings back what was typed.
            area.replace(found.text, (0, 0), area.document.end)
        else:
            self.tell("There is nothing to undo.")

    @asks
    async def action_diff(self) -> None:
        if self._open is not None:
            lines = text_diff(self._open.text, self._drafts.text_of(self._open))
            rows = diff_rows(lines) or [["Nothing has changed."]]
            await self.ask(TextDialog("Not written yet", rows))

    @asks
    async def action_write(self) -> None:
        found = self._open
        if found is None or found.problem:
            return
        text = self._drafts.text_of(found)
        if text == found.text and found.file.is_writable:
            self.tell("Nothing has changed.")
            return
        written = await save(self, found.file, text, was=found.text)
        if written is not None:
            self._drafts.forget(found.file.path)
            self._open = Opened(written, text)
            self._show_written(written)

    def _show_written(self, file: RecipeFile) -> None:
        self.loba.recipe_to_edit = file
        self.tell(f"wrote {file.path}", "good")
        self.shown_again()

    def _file_alone(self, why: str = "") -> Opened | None:
        """Return the recipe where nothing is typed that its file does not hold; else say so."""
        found = self._open
        if found is None or not self._drafts.has(found.file.path):
            return found
        self.tell(f"Write the changes first, with w{why}.", "warn")
        return None

    @asks
    async def action_start(self) -> None:
        found = self._file_alone()
        if found is not None:
            await start_and_watch(self, found.file.path)

    def action_stack(self) -> None:
        found = self._file_alone(": the stack editor reads the file")
        if found is not None:
            self.loba.edit_stack(found.file)

    @asks
    async def action_editor(self) -> None:
        """Edit the file in the user's own editor; what cannot be written to is copied first."""
        found = self._file_alone()
        if found is None:
            return
        file: RecipeFile | None = found.file
        if not found.file.is_writable:
            file = await save(self, found.file, found.text, was=found.text)
            self.loba.recipe_to_edit = file or self.loba.recipe_to_edit
        if file is not None:
            self._run_editor(file.path)

    def _run_editor(self, path: Path) -> None:
        environ = self.context.environ
        command = environ.get("VISUAL") or environ.get("EDITOR") or "vi"
        try:
            argv = [*shlex.split(command), str(path)]
            with self.app.suspend():
                done = subprocess.run(argv, check=False)
            if done.returncode:
                raise ResourceError(f"{argv[0]} ended with {done.returncode}.")
        except SuspendNotSupported:
            self.tell("Another editor cannot be shown here; enter edits inside.", "warn")
        except (LobaError, OSError, ValueError) as error:
            self.tell(f"{command} cannot be started: {error}", "bad")
        self.shown_again()

    @asks
    async def action_compare(self) -> None:
        """Compare the recipe with another one: the marked one, or one to choose."""
        found = self._open
        if found is None:
            return
        marked = [file for file in self.chosen(self._files) if file.path != found.file.path]
        title, files = f"Compare {found.file.label} with", [*self._files.values()]
        other = marked[0] if len(marked) == 1 else await choose_recipe(self, title, files)
        if other is not None:
            text, plugins = self._drafts.text_of(found), self.context.plugins
            rows = await self.in_thread(comparison_rows, found.file, text, other, plugins)
            await self.ask(TextDialog(f"{found.file.label} → {other.label}", rows))

    @asks
    async def action_new(self) -> None:
        rows = [["It trains on the embedded model, and validates as it is."]]
        name = await self.ask(LineDialog("Name of the new recipe", rows, value="my-slider"))
        if name is not None:
            file = await self.in_thread(new_recipe_file, name, self.context.plugins)
            self._open = None
            self._show_written(file)

    def action_copy(self) -> None:
        if self._open is not None:
            self.copy(str(self._open.file.path))
