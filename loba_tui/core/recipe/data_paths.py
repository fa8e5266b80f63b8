"""Paths in a recipe: relative to its folder in a file, and to nowhere in an adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loba_tui.core.names import file_in_repository, is_repository
from loba_tui.core.recipe.schema import BaseModelSection, Recipe
from loba_tui.core.recipe.sections.data import DataSection, DataSource
from loba_tui.core.recipe.tree import Node
from loba_tui.core.user_folders import with_home
from loba_tui.models import BUILTIN_PREFIX

Key = tuple[str | int, ...]


def with_absolute_paths(recipe: Recipe, tree: Node, file: Path, *, origin: str) -> Recipe:
    """Return the recipe with absolute paths, so that a run finds them from any folder.

    A path in the file, which the tree calls `origin`, is relative to the file's folder. One that
    was given with `--set` is relative to the current folder, as paths on a command line are.
    """

    def absolute(key: Key, path: str) -> str:
        node = tree.at(key)
        is_in_file = node is not None and node.place.file == origin
        base = file.parent if is_in_file else Path()
        return str((base / with_home(path)).absolute())

    return _with_paths(recipe, absolute)


def portable(recipe: Recipe) -> Recipe:
    """Return the recipe as an adapter carries it.

    Of paths only the last names are left, those of a model's files too: nobody needs to be told
    the rest. And how images are read and kept is left out, as it changes no bit of the adapter.
    """
    recipe = recipe.model_copy(update={"base_model": _portable_model(recipe.base_model)})
    if recipe.data is not None:
        plain = {name: DataSection.model_fields[name].default for name in ("workers", "cache")}
        data = recipe.data.model_copy(update=plain)
        recipe = recipe.model_copy(update={"data": data})
    return _with_paths(recipe, lambda key, path: Path(path).name)


def portable_model_id(model_id: str) -> str:
    """Return a base model's id without the folders above a file of this machine."""
    is_file = model_id.lower().endswith(".safetensors") and file_in_repository(model_id) is None
    return Path(model_id).name if is_file else model_id


def _portable_model(model: BaseModelSection) -> BaseModelSection:
    named = {"vae": model.vae, "config": model.config}
    names = {
        key: path if key == "config" and is_repository(path) else Path(path).name
        for key, path in named.items()
        if path is not None
    }
    return model.model_copy(update={"id": portable_model_id(model.id), **names})


def paths_of(recipe: Recipe) -> Iterator[tuple[Key, str]]:
    """Yield the paths of images and of an adapter to begin with, each with its key."""
    for section, source_index, source in sources_of(recipe):
        for name, path in (("path", source.path), ("masks", source.masks)):
            if path is not None and not path.startswith(BUILTIN_PREFIX):
                yield (section, "sources", source_index, name), path
    if recipe.adapter.init_from is not None:
        yield ("adapter", "init_from"), recipe.adapter.init_from


def sources_of(recipe: Recipe) -> Iterator[tuple[str, int, DataSource]]:
    """Yield the sources of images to train on and of those that are held out."""
    for name, section in (("data", recipe.data), ("validation", recipe.validation)):
        for index, source in enumerate(section.sources if section is not None else ()):
            yield name, index, source


def _with_paths(recipe: Recipe, change: Callable[[Key, str], str]) -> Recipe:
    """Return the recipe with each of its `paths_of` changed."""
    for key, path in paths_of(recipe):
        recipe = _replaced(recipe, key, change(key, path))
    return recipe


def _replaced(value: Any, key: Key, new: str) -> Any:
    if not key:
        return new
    step, rest = key[0], key[1:]
    if isinstance(step, int):
        return (*value[:step], _replaced(value[step], rest, new), *value[step + 1 :])
    return value.model_copy(update={step: _replaced(getattr(value, step), rest, new)})
