"""Open the recipe that a command names, and ask before a stranger's is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from loba_tui.commands.options import confirm, echo_lines
from loba_tui.core.text import clean

if TYPE_CHECKING:
    from loba_tui.client.recipes.open import OpenedRecipe


def open_recipe(wanted: Path | None) -> OpenedRecipe:
    """Return the recipe that is named; say so where a shipped one stands in for a missing file.

    Raises:
        LobaError: There is no such recipe, or the hub does not show it.
    """
    from loba_tui.client.recipes import open as opening

    opened = opening.open_recipe(wanted)
    if opened.origin is None and opened.path != wanted:
        shown = f"{clean(wanted)} is not here; taking the shipped {clean(opened.path)}"
        typer.echo(shown, err=True)
    return opened


def ask_to_run(opened: OpenedRecipe, *, yes: bool) -> None:
    """Show a recipe from the hub and ask whether to run it; a local one just runs.

    Raises:
        RefusedError: There is no terminal to ask on and no --yes.
    """
    if opened.origin is None:
        return
    echo_lines(opened.lines(), err=True)
    because = "the recipe above is from the hub"
    confirm("Run it?", yes=yes, outcome="nothing was run", because=because)
