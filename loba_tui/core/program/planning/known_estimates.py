"""Estimates that this process knows: a recipe's is made once for the same device and files.

An estimate follows from the recipe, the device, the shipped drop-ins and the files that the recipe
names. All of these are in the key, files by size and time. Where more could matter, the plugins of
a user or what the hub's cache has meanwhile, every estimate is made anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import KINDS, Plugins
from loba_tui.core.program.planning.estimate import Estimator, dtype_on
from loba_tui.core.program.planning.estimate_records import Estimate
from loba_tui.core.recipe.measure_models import measure_models
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.user_folders import with_home
from loba_tui.models import BUILTIN_PREFIX

_MOST_FILES = 500
"""A folder with more is no model's; to look at it each time would take longer than estimating."""

_File = tuple[str, int, int]
"""Path, size and time of change in nanoseconds."""


@dataclass(frozen=True)
class _Basis:
    """All that an estimate follows from."""

    recipe: str
    device: str
    processes: int
    dtype: str
    files: tuple[_File, ...]


@lru_cache(maxsize=256)
def _place_of(basis: _Basis) -> list[Estimate]:
    """Return the place of an estimate, empty until it is made."""
    return []


def estimate_of(recipe: Recipe, estimator: Estimator) -> Estimate:
    """Return what a recipe will need, as the estimator finds it or has found it before.

    Raises:
        RecipeError: The recipe does not fit its model.
    """
    basis = _basis_of(recipe, estimator)
    if basis is None:
        return estimator.estimate(recipe)
    place = _place_of(basis)
    if not place:
        place.append(estimator.estimate(recipe))
    return place[0]


def _basis_of(recipe: Recipe, estimator: Estimator) -> _Basis | None:
    """Return the key of a recipe's estimate; None where not all of it is in sight."""
    if any(estimator.plugins.user.files(kind) for kind in KINDS):
        return None
    models = list(_models_of(recipe, estimator.plugins))
    if not all(map(_is_here, models)):
        return None
    texts = {text for text in _strings_of(recipe.model_dump()) if "/" in text}
    paths = {path for text in {*texts, *models} if (path := _existing(text)) is not None}
    files: list[_File] = []
    for path in sorted(paths):
        for each in _files_below(path):
            if len(files) == _MOST_FILES:
                return None
            files.append(_state_of(each))
    return _Basis(
        recipe.model_dump_json(exclude={"name"}),
        str(estimator.device),
        estimator.processes,
        str(dtype_on(estimator.device, recipe)),
        tuple(files),
    )


def _models_of(recipe: Recipe, plugins: Plugins) -> Iterator[str]:
    settings = recipe.base_model
    yield from filter(None, (settings.id, settings.vae, settings.config))
    yield from (model.id for model in measure_models(recipe, plugins))


def _is_here(model: str) -> bool:
    return model.startswith(BUILTIN_PREFIX) or _existing(model) is not None


def _existing(text: str) -> Path | None:
    """Return the file or folder that a text names, if it names one."""
    try:
        path = with_home(text).absolute()
        return path if path.exists() else None
    except (OSError, ValueError, RecipeError):  # a prompt: it is too long, or begins with "~"
        return None


def _state_of(file: Path) -> _File:
    try:
        status = file.stat()
    except OSError:  # a link to nothing
        return str(file), 0, 0
    return str(file), status.st_size, status.st_mtime_ns


def _files_below(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in sorted(names))


def _strings_of(value: Any) -> Iterable[str]:
    """Return all strings in a tree of mappings and sequences."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        return [text for each in value for text in _strings_of(each)]
    return []
