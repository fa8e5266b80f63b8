"""Open the recipe that a command names, and ask before a stranger's is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loba_tui.commands.options import Agreed, confirm, echo_lines, say, user_ledger, user_plugins
from loba_tui.core.text import clean

if TYPE_CHECKING:
    from loba_tui.client.recipes.open import OpenedRecipe
    from loba_tui.client.recipes.strangers import StrangersRecipe
    from loba_tui.client.runs.request_recipes import FoundRecipe
    from loba_tui.core.recipe.schema import Recipe
    from loba_tui.core.run.directory import RunDir


def open_recipe(wanted: Path | None, *, yes: bool = False) -> OpenedRecipe:
    """Return the recipe that is named; say so where a shipped one stands in for a missing file.

    Where the hub does not show one to everybody, it is asked whether to fetch it with the login.

    Raises:
        LobaError: There is no such recipe, or the hub does not show it.
    """
    from loba_tui.client.recipes import open as opening

    try:
        opened = opening.open_recipe(wanted)
    except opening.NotPublicError as error:
        if not opening.has_login():
            raise
        say(clean(error.message), err=True)
        confirm(
            f"Ask for {clean(wanted)} with your login?",
            yes=yes,
            outcome="nothing was fetched",
            because="the hub does not show it to everybody",
        )
        opened = opening.open_recipe(wanted, login=True)
    if opened.origin is None and opened.path != wanted:
        shown = f"{clean(wanted)} is not here; taking the shipped {clean(opened.path)}"
        say(shown, err=True)
    return opened


def load_agreed(opened: OpenedRecipe, overrides: Sequence[str], agreed: Agreed) -> Recipe:
    """Return the recipe that was opened, with its overrides; a stranger's is asked about.

    Raises:
        LobaError: It cannot be used, or there is no terminal to ask on and no --yes.
    """
    from loba_tui.core.recipe.load import load_recipe

    stranger = opened.stranger
    if stranger is None:
        with naming_tools(opened.path):
            return load_recipe(opened.path, overrides, plugins=user_plugins())
    return ask_about(stranger, overrides, agreed)


@contextmanager
def naming_tools(path: Path) -> Iterator[None]:
    """Where a recipe has problems and is another trainer's configuration, say that instead.

    Raises:
        ProblemsFound: The recipe cannot be used.
    """
    from loba_tui.core.recipe.problems import ProblemsFound

    try:
        yield
    except ProblemsFound as error:
        from loba_tui.client.recipes.imports.registry import foreign_problem

        foreign = foreign_problem(path)
        if foreign is None:
            raise
        raise ProblemsFound([foreign]) from error


def load_found(found: FoundRecipe, agreed: Agreed) -> Recipe:
    """Return the recipe that goes with an adapter; a stranger's is asked about.

    Raises:
        LobaError: It cannot be used, or there is no terminal to ask on and no --yes.
    """
    if found.is_own:
        return found.load_own(user_plugins())
    return ask_about(found.text, (), agreed)


def ask_to_resume(run_dir: RunDir, agreed: Agreed) -> None:
    """Ask before a run goes on that is not in the user's own list of runs.

    Raises:
        LobaError: Its recipe cannot be used, or there is no terminal to ask on and no --yes.
    """
    from loba_tui.client.recipes import strangers

    stranger = strangers.of_run(run_dir, user_ledger())
    if stranger is not None:
        ask_about(stranger, (), agreed)


def ask_about(stranger: StrangersRecipe, overrides: Sequence[str], agreed: Agreed) -> Recipe:
    """Show a stranger's recipe and what it would touch, and ask whether to use it.

    Raises:
        ProblemsFound: It cannot be used; then nobody is asked.
        RefusedError: There is no terminal to ask on and no --yes.
    """
    recipe = stranger.load(overrides, allowed=agreed.allow_path or [], plugins=user_plugins())
    echo_lines(stranger.lines(recipe), err=True)
    because = "the recipe above is from elsewhere"
    confirm("Use it?", yes=agreed.yes, outcome="nothing was done", because=because)
    return recipe
