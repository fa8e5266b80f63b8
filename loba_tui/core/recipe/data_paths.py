"""Paths of data: relative to the recipe's folder in a file, and to nowhere in an adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from loba_tui.core.recipe.data_schema import DataSection
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.tree import Node
from loba_tui.models import BUILTIN_PREFIX


def with_absolute_paths(recipe: Recipe, tree: Node, file: Path, *, origin: str) -> Recipe:
    """Return the recipe with absolute data paths, so that a run finds them from any folder.

    A path in the file, which the tree calls `origin`, is relative to the file's folder. One that
    was given with `--set` is relative to the current folder, as paths on a command line are.
    """

    def absolute(index: int, key: str, path: str) -> str:
        node = tree.at(("data", "sources", index, key))
        is_in_file = node is not None and node.place.file == origin
        base = file.parent if is_in_file else Path()
        return str((base / Path(path).expanduser()).absolute())

    return _changed(recipe, absolute)


def portable(recipe: Recipe) -> Recipe:
    """Return the recipe as an adapter carries it.

    Of data paths only the last names are left: nobody needs to be told the rest. And how images are
    read and kept is left out, as it changes no bit of the adapter.
    """
    if recipe.data is None:
        return recipe
    plain = {name: DataSection.model_fields[name].default for name in ("workers", "cache")}
    data = recipe.data.model_copy(update=plain)
    recipe = recipe.model_copy(update={"data": data})
    return _changed(recipe, lambda index, key, path: Path(path).name)


def _changed(recipe: Recipe, change: Callable[[int, str, str], str]) -> Recipe:
    if recipe.data is None:
        return recipe
    sources = []
    for index, source in enumerate(recipe.data.sources):
        update = {
            key: change(index, key, path)
            for key in ("path", "masks")
            if (path := getattr(source, key)) is not None and not path.startswith(BUILTIN_PREFIX)
        }
        sources.append(source.model_copy(update=update))
    data = recipe.data.model_copy(update={"sources": tuple(sources)})
    return recipe.model_copy(update={"data": data})
