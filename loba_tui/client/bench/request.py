"""`loba bench`: which recipe is measured, and the program that is asked for it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loba_tui.client.runs.foreground import Foreground
from loba_tui.core.errors import CorruptError, ExitCode, LobaError, RecipeError
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe import shipped
from loba_tui.core.recipe.load import dump_recipe, parse_with
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run import launch
from loba_tui.core.run.directory import RunDir
from loba_tui.core.text import clean, did_you_mean
from loba_tui.core.user_folders import with_home

DEFAULT_FAMILY = "sdxl"
_RECIPE_OF_A_FAMILY = "slider"
_MAX_BYTES = 4 * 2**20
_BATCH_KEYS = ("train.batch_size=", "train.gradient_accumulation=")


@dataclass(frozen=True)
class BenchOptions:
    """How a recipe is measured; `tries` are assignments `KEY=VALUE` of each alternative."""

    minutes: float
    quick: bool
    tries: tuple[tuple[str, ...], ...] = ()


def recipe_of(recipe: Path | None, family: str | None) -> Path:
    """Return the recipe to open: the one that is named, or the slider of a family.

    Raises:
        RecipeError: Both are named, or there is no such family.
    """
    if recipe is not None:
        if family is not None:
            raise RecipeError(
                "A recipe and --family exclude each other: a recipe names its model.",
                "Leave one of them out.",
            )
        return recipe
    family = family or DEFAULT_FAMILY
    found = shipped.find(f"{family}/{_RECIPE_OF_A_FAMILY}")
    if found is None:
        known = families()
        hint = did_you_mean(family, known, f"There are {', '.join(known)}.")
        raise RecipeError(f"--family: {clean(family, limit=60)} is not a family.", hint)
    return found


def families() -> list[str]:
    """Return the families that have a recipe to measure."""
    ending = f"/{_RECIPE_OF_A_FAMILY}"
    return [name.removesuffix(ending) for name in shipped.names() if name.endswith(ending)]


def parse_tries(texts: Sequence[str], recipe: Recipe, plugins: Plugins) -> list[tuple[str, ...]]:
    """Return the assignments of each alternative, written `KEY=VALUE,KEY=VALUE`.

    Raises:
        ProblemsFound: One does not fit the recipe.
    """
    found = []
    for text in texts:
        # A comma inside of a value is one that no further KEY= comes after.
        parts: list[str] = []
        for part in text.split(","):
            if "=" in part or not parts:
                parts.append(part.strip())
            else:
                parts[-1] += f",{part}"
        # It goes with the numbers that are changed, and says nothing that they do not.
        if recipe.train.effective_batch_size and any(
            part.startswith(_BATCH_KEYS) for part in parts
        ):
            parts.insert(0, "train.effective_batch_size=null")
        parse_with(dump_recipe(recipe), "--try", parts, plugins=plugins)
        found.append(tuple(parts))
    return found


def writable(file: Path) -> Path:
    """Return the file that figures are to be written to; minutes before there are any.

    Raises:
        RecipeError: Its folder is not there, or it is a folder itself.
    """
    path = with_home(file)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise RecipeError(
            f"--json: {clean(file)} is not a file in a folder that is there.",
            "Name a file, as in --json figures.json",
        )
    return path


def bench(recipe: Recipe, options: BenchOptions, here: Foreground) -> dict[str, Any]:
    """Have a recipe measured, and return the document of its figures.

    Raises:
        LobaError: The program could not measure it; carries its message and exit code.
    """
    folder = RunDir(Path(tempfile.mkdtemp(prefix="loba-bench-")))
    try:
        wanted = launch.Request(
            "bench",
            "",
            None,
            str(folder.path),
            recipe=dump_recipe(recipe),
            tries=options.tries,
            minutes=options.minutes,
            quick=options.quick,
        )
        here.request(folder, wanted)
        document = parse_json(folder.folder.file(launch.BENCH).read(_MAX_BYTES))
    except LobaError as error:
        if error.exit_code != ExitCode.BUG:  # otherwise the log is needed to find it
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    except (OSError, ValueError) as error:
        raise CorruptError(f"The program left no figures in {folder.path}: {error}.") from error
    shutil.rmtree(folder.path, ignore_errors=True)
    if not isinstance(document, dict):
        raise CorruptError("The program's figures are not a table.")
    return document
