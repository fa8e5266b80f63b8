"""Small configurations of other tools, each in its tool's own format."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from loba_tui.client.recipes.imports.registry import Imported, import_recipe
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.recipe.schema import Recipe

FILES = Path(__file__).parents[1] / "client" / "recipes" / "imports" / "files"
TOKEN = "hf_" + "Ab1" * 9
"""Stands where the files have @TOKEN@, so that nothing in the checkout looks like one."""


def copied(name: str, folder: Path) -> Path:
    """Copy an example with a token in it, and return where it is now."""
    there = folder / name
    shutil.copytree(FILES / name, there)
    for path in there.iterdir():
        path.write_text(path.read_text("utf-8").replace("@TOKEN@", TOKEN), "utf-8")
    return there


def imported(paths: Sequence[Path], *words: str) -> tuple[Recipe, Imported]:
    """Import files, and return the recipe that the text loads to."""
    found = import_recipe(list(paths), list(words), SHIPPED)
    return parse_text(found.text, "imported.yaml", plugins=SHIPPED), found


def left(found: Imported) -> dict[str, str]:
    """Return the reason for each setting that was not carried over."""
    return {each.key: each.reason for each in found.draft.left_overs}
