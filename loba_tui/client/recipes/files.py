"""The recipes that an editor can open: shipped ones, those of the folder at hand, those of runs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loba_tui.client.recipes.open import find_recipe, is_address, open_recipe
from loba_tui.client.runs.resolve import find_run
from loba_tui.core.errors import RecipeError
from loba_tui.core.files import replace_file, unwritable
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe import shipped
from loba_tui.core.recipe.load import MAX_BYTES, load_recipe, read_recipe_text, refuse_tokens
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.text import clean

Origin = Literal["local", "shipped", "run"]

MOST_LISTED = 2_000
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class RecipeFile:
    """A recipe that can be opened.

    Attributes:
        origin: What comes with the package, or was run, is never written to.
        modified: Wall time.
    """

    path: Path
    label: str
    origin: Origin
    modified: float = 0.0

    @property
    def is_writable(self) -> bool:
        """Say whether an edit goes into this very file."""
        return self.origin == "local"


def listing(folder: Path, ledger: Ledger) -> list[RecipeFile]:
    """Return the folder's recipes, the shipped ones, and those of all runs, newest first."""
    ours = shipped.folder().resolve()
    found = list(_local(folder))
    found += [RecipeFile(ours / f"{name}.yaml", name, "shipped") for name in shipped.names()]
    runs = [run.recipe for run in reversed(ledger.runs())]
    found += [RecipeFile(file.path, file.folder.name, "run") for file in runs if file.is_there()]
    return [_dated(each) for each in found[:MOST_LISTED]]


def _local(folder: Path) -> Iterator[RecipeFile]:
    for base in (folder, folder / "recipes"):
        # In a checkout, the shipped recipes are the folder's own, and may be edited there.
        for path in sorted(base.rglob("*") if base != folder else base.glob("*")):
            if path.suffix in _SUFFIXES and path.is_file():
                yield RecipeFile(path.absolute(), str(path.relative_to(folder)), "local")


def _dated(file: RecipeFile) -> RecipeFile:
    with suppress(OSError):
        return RecipeFile(file.path, file.label, file.origin, file.path.stat().st_mtime)
    return file


def resolve(wanted: str, ledger: Ledger, plugins: Plugins) -> Recipe:
    """Return the recipe meant by a file, a shipped recipe's name, an address, or a run.

    Raises:
        RecipeError: There is none of that name, or it has problems.
    """
    path = Path(wanted)
    if is_address(path):
        stranger = open_recipe(path).stranger
        assert stranger is not None
        return stranger.load(plugins=plugins)
    if path.is_dir():
        return load_recipe(RunDir.open(path).recipe, plugins=plugins)
    if not path.exists() and shipped.find(wanted) is None:
        try:
            return load_recipe(find_run(wanted, ledger).recipe, plugins=plugins)
        except RecipeError as error:
            raise RecipeError(
                f"{clean(wanted)} is neither a recipe nor a run.", error.hint
            ) from error
    return load_recipe(find_recipe(path), plugins=plugins)


def write(path: Path, text: str, *, was: str | None) -> None:
    """Replace a recipe's text, or make a new file.

    Args:
        path: A link is followed, and the file's mode is kept.
        was: What the file held when it was read; None where there must be none yet.

    Raises:
        RecipeError: The file was changed since, or exists already, or the text is too long.
        RefusedError: The text holds what looks like an access token.
        ResourceError: It cannot be written.
    """
    refuse_tokens(text, str(path))
    content = text.encode("utf-8")
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{clean(path)}: a recipe has at most {MAX_BYTES} bytes")
    target = Path(os.path.realpath(path))
    if was is not None and not target.exists():
        raise RecipeError(f"{clean(path)} is gone.", "Save it under another name.")
    if was is not None and read_recipe_text(target) != was:
        raise RecipeError(
            f"{clean(path)} was changed by somebody else since it was read.",
            "Open it anew, or save this under another name.",
        )
    try:
        if was is None:
            with target.open("xb") as file:
                file.write(content)
        else:
            replace_recipe(target, content)
    except FileExistsError as error:
        raise RecipeError(f"{clean(target)} exists already.", "Choose another name.") from error
    except OSError as error:
        raise unwritable(target, error) from error


def replace_recipe(path: Path, content: bytes) -> None:
    """Replace a recipe's content; a link stays, and so does the mode of the file that it names."""
    target = path.resolve()
    replace_file(target, content, mode=stat.S_IMODE(target.stat().st_mode))
