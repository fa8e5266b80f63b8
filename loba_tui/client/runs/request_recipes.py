"""The recipes by which adapters are drawn, measured and made again: found, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loba_tui.client.recipes import strangers
from loba_tui.client.recipes.strangers import StrangersRecipe
from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.errors import RecipeError, RefusedError
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.load import dump_recipe, load_recipe, parse_text, read_recipe_text
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.changes import ChangeRecord
from loba_tui.core.run.directory import Ledger, RunDir, adapter_source, run_of
from loba_tui.core.text import clean

# What a run calls its adapter; another file there may be from anywhere.
_OWN_NAMES = ("adapter.safetensors", "adapter.kohya.safetensors", "adapter.comfy.safetensors")


@dataclass(frozen=True)
class FoundRecipe:
    """A recipe that goes with an adapter.

    Attributes:
        text: As it stands there.
        run: The run whose recipe.yaml it is; None for one in an adapter file.
        is_own: Whether it is of a run in the user's own list of runs.
    """

    text: StrangersRecipe
    run: RunDir | None
    is_own: bool

    def load_own(self, plugins: Plugins) -> Recipe:
        """Return the recipe, where it is the user's own.

        Raises:
            LobaError: It cannot be used.
        """
        assert self.is_own
        if self.run is not None:
            return load_recipe(self.run.recipe, plugins=plugins)
        return parse_text(self.text.text, self.text.origin, plugins=plugins)


def own_recipe_of_run(adapter: Path, found: FoundRecipe, plugins: Plugins) -> Recipe | None:
    """Return the recipe.yaml of the user's own run that an adapter file lies in; None for others.

    It has the paths of this machine, which the recipe in the file has not.
    """
    run_dir = run_of(adapter) if found.is_own else None
    return load_recipe(run_dir.recipe, plugins=plugins) if run_dir is not None else None


def recipe_of(file: Path, run_dir: RunDir | None, ledger: Ledger) -> FoundRecipe:
    """Return the recipe that goes with an adapter file: its run's, or else the one that it carries.

    Raises:
        RecipeError: There is none.
        RefusedError: The file is no plain file.
        CorruptError: It is no adapter.
    """
    if run_dir is None:
        return recipe_of_adapter(_metadata_of(file), file, ledger)
    origin = str(run_dir.recipe.path)
    text = StrangersRecipe(read_recipe_text(run_dir.recipe, origin), origin)
    return FoundRecipe(text, run_dir, strangers.is_own(run_dir, ledger))


def recipe_of_adapter(
    metadata: Mapping[str, Any],
    file: Path,
    ledger: Ledger,
    changes: ChangeRecord = ChangeRecord(),  # noqa: B008  frozen
) -> FoundRecipe:
    """Return the recipe that an adapter file carries; of a run of the user's own it is their own.

    Args:
        changes: What is changed while it is trained, where it is to be trained again.

    Raises:
        RecipeError: It carries none.
    """
    text = replace(strangers.of_adapter(metadata, file), changes=changes)
    is_in_place = file.name in _OWN_NAMES and file.parent.name in ("adapter", "best")
    is_own = is_in_place and strangers.is_own(RunDir(file.absolute().parent.parent), ledger)
    return FoundRecipe(text, None, is_own)


def measuring_recipe(file: Path, run_dir: RunDir | None, ledger: Ledger, plugins: Plugins) -> str:
    """Return the text of the recipe whose measure is taken beside another adapter's; "" for none.

    Of a stranger's nothing but a shipped measure is used, which reads images and nothing else.
    """
    try:
        found = recipe_of(file, run_dir, ledger)
        recipe = found.load_own(plugins) if found.is_own else found.text.load(plugins=plugins)
    except RecipeError:
        return ""
    return dump_recipe(recipe)


def _metadata_of(file: Path) -> Mapping[str, Any]:
    try:
        found = check_safetensors(adapter_source(file)).get("__metadata__", {})
    except OSError as error:
        raise RefusedError(f"{clean(file)} cannot be used: it {error.strerror}.") from error
    return found if isinstance(found, dict) else {}
