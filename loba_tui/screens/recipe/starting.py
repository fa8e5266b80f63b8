"""Starting a recipe from a screen: what it comes to, a yes, and the run in the monitor."""

from __future__ import annotations

from pathlib import Path

from loba_tui.core.run.directory import RunDir
from loba_tui.screens.base import LobaScreen
from loba_tui.screens.runs.rows import start, start_rows
from loba_tui.widgets.dialogs import ConfirmDialog
from loba_tui.widgets.line import Piece


def ask_to_start(screen: LobaScreen, path: Path) -> None:
    """Show what starting a recipe comes to, and start it after a yes."""
    context = screen.context

    def confirm(plan: tuple[str, list[list[Piece]]]) -> None:
        name, rows = plan

        def answered(yes: bool | None) -> None:
            if yes:
                screen.work(lambda: start(name, context), started)

        screen.app.push_screen(ConfirmDialog(f"Start {path.name}?", rows, "start"), answered)

    def started(run: RunDir) -> None:
        if screen.loba.has_entry("monitor"):
            screen.loba.watch_run(run)
        else:
            screen.tell(f"started {run.name}", "good")

    screen.work(lambda: start_rows(str(path), context), confirm)
