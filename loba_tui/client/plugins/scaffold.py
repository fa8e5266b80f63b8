"""The file that `loba plugins new` writes: a drop-in that works, to be changed, and its test."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from string import Template

from loba_tui.client.plugins.listing import check_kind
from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.files import PRIVATE_DIR_MODE, PRIVATE_FILE_MODE
from loba_tui.core.plugins import KINDS, Plugins
from loba_tui.core.plugins.user import is_plugin_name
from loba_tui.core.text import clean


def create(kind: str, name: str, plugins: Plugins) -> tuple[Path, Path]:
    """Write a drop-in and its test into the user's folder and return both files.

    Raises:
        RecipeError: The kind or the name cannot be, or there is one of that name.
        ResourceError: Nothing can be written there.
    """
    check_kind(kind)
    if plugins.user.folder is None:
        raise ResourceError("There is no home folder to keep plugins in.", "Set XDG_CONFIG_HOME.")
    if not (name.isascii() and is_plugin_name(name)):
        raise RecipeError(
            f"{clean(name)} cannot be the name of a drop-in.",
            "Take letters, digits and _; not _ or test_ at the beginning.",
        )
    if plugins.is_shipped(kind, name):
        raise RecipeError(f"There is a shipped {kind}/{name}, and it cannot be replaced.")
    folder = plugins.user.folder / kind
    path, test = folder / f"{name}.py", folder / f"test_{kind}_{name}.py"
    noun = KINDS[kind].noun
    try:
        for each in (plugins.user.folder.parent, plugins.user.folder, folder):
            each.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
        _write(path, _template(kind).substitute(name=name))
        _write(test, _template("test").substitute(kind=kind, name=name, noun=noun, file=test.name))
    except FileExistsError as error:
        raise RecipeError(f"{error.filename}: exists already", "Choose another name.") from error
    except OSError as error:
        raise ResourceError(f"{folder} cannot be written to: {error.strerror}.") from error
    return path, test


def _template(name: str) -> Template:
    folder = resources.files("loba_tui.client.plugins") / "templates"
    return Template((folder / f"{name}.py.txt").read_text("utf-8"))


def _write(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(path, flags, PRIVATE_FILE_MODE), "w", encoding="utf-8") as file:
        file.write(text)
