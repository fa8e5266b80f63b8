"""Recipes that this user did not write: where they are from, and what they would touch.

A recipe is a stranger's where it was fetched from a hub, lies in an adapter file, or in the folder
of a run that is not in this user's own list of runs. A recipe file that the user names is their
own. All of a stranger's are treated alike: nothing that they name is asked for or opened before
they were shown and agreed to; they get shipped drop-ins only; and a path of theirs is a name below
the current folder, unless the user gives the folder (`--allow-path`) or the value (`--set`).

    opened.stranger, of_run, of_adapter    a StrangersRecipe, or None where it is the user's own
    stranger.load(…)                       the recipe, once its drop-ins and paths are checked
    stranger.lines(recipe)                 what is shown before the question
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loba_tui.core.adapter_metadata import RECIPE_KEY
from loba_tui.core.errors import RecipeError, RefusedError
from loba_tui.core.names import is_repository, repository_of
from loba_tui.core.plugins import SHIPPED, Plugins
from loba_tui.core.recipe.checks.choices import chosen_drop_ins
from loba_tui.core.recipe.data_paths import paths_of, sources_of, with_absolute_paths
from loba_tui.core.recipe.load import MAX_BYTES, parse_with, read_recipe_text, refuse_tokens
from loba_tui.core.recipe.measure_models import measure_models
from loba_tui.core.recipe.problems import Problem, ProblemsFound
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.tree import Node
from loba_tui.core.run.changes import ChangeRecord
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.launching.shape import LaunchShape
from loba_tui.core.text import clean, quote
from loba_tui.core.user_folders import with_home
from loba_tui.models import BUILTIN_PREFIX

HINT = "--allow-path FOLDER lets a recipe from elsewhere use a folder, and what is in it."


@dataclass(frozen=True)
class StrangersRecipe:
    """The text of a stranger's recipe as it was read once; what is shown is what is used.

    Attributes:
        origin: What it is called in messages: an address, or a path.
        asked: The revision that was asked for, of an address.
        page: Where it can be read on the hub.
        changes: What is changed while it is trained, where that comes with it.
    """

    text: str
    origin: str
    asked: str = ""
    page: str = ""
    changes: ChangeRecord = field(default_factory=ChangeRecord)

    def load(
        self, overrides: Sequence[str] = (), *, allowed: Sequence[Path] = (), plugins: Plugins
    ) -> Recipe:
        """Return the recipe, with the user's overrides and with absolute paths of images.

        Args:
            allowed: Folders that it may use beside what is below the current one.

        Raises:
            ProblemsFound: It has mistakes, a path that leads elsewhere, or a plugin of the user's.
            RefusedError: Something in it looks like an access token.
        """
        if len(self.text) > MAX_BYTES:
            message = f"the recipe is longer than {MAX_BYTES} characters"
            raise ProblemsFound([Problem(self.origin, 0, 0, "", message)])
        refuse_tokens(self.text, self.origin)
        recipe, tree = parse_with(
            self.text, self.origin, overrides, plugins=plugins.for_strangers()
        )
        problems = list(self._path_problems(recipe, tree, [_real(path) for path in allowed]))
        if problems:
            raise ProblemsFound(problems, HINT)
        return with_absolute_paths(recipe, tree, Path(), origin=self.origin)

    def problems(self, overrides: Sequence[str], *, plugins: Plugins) -> list[Problem]:
        """Return every problem of the recipe; none means that it could be agreed to."""
        try:
            self.load(overrides, plugins=plugins)
        except ProblemsFound as error:
            return list(error.problems)
        return []

    def lines(self, recipe: Recipe) -> Iterator[str]:
        """Yield where it is from, its text, and what it would touch, all of it plain text."""
        yield clean(self.origin) + (f" ({clean(self.asked)})" if self.asked else "")
        if self.page:
            yield clean(self.page)
        for line in self.text.splitlines():
            yield f"  {clean(line)}"
        yield "What it would use:"
        for label, value in touched(recipe):
            yield f"  {label:12}{clean(value)}"
        for change in self.changes.changes:
            what = f"{change.key} becomes {quote(change.new)} after step {change.step}"
            yield f"  {'steering':12}{clean(what)}"

    def _path_problems(
        self, recipe: Recipe, tree: Node, allowed: Sequence[Path]
    ) -> Iterator[Problem]:
        for path, value in _paths_of(recipe):
            node = tree.at(path)
            # What the user gave with --set is their own.
            if node is not None and node.place.file == self.origin:
                problem = _path_problem(value, allowed)
                if problem:
                    yield tree.problem(path, problem, refused=True)


def touched(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield what a recipe would use of this machine and of the hub, for reading."""
    model = recipe.base_model
    where = "comes with this program"
    if _is_hub_id(repository_of(model.id)):
        revision = model.revision or "main"
        where = f"revision {revision} of the hub, fetched with your login where you have one"
    elif not model.id.startswith(BUILTIN_PREFIX):
        where = f"the files at {_real(Path(model.id))}"
    yield "base model", f"{model.id}: {where}"
    if model.vae is not None:
        yield "vae", str(_real(Path(model.vae)))
    if model.config is not None:
        of_hub = _is_hub_id(model.config)
        yield "config", f"{model.config} of the hub" if of_hub else str(_real(Path(model.config)))
    for _, _, source in sources_of(recipe):
        for label, path in (("images", source.path), ("masks", source.masks)):
            if path is not None:
                yield label, path if path.startswith(BUILTIN_PREFIX) else str(_real(Path(path)))
    for measured in measure_models(recipe, SHIPPED):
        where = "comes with this program"
        if measured.is_on_hub:
            where = f"revision {measured.revision} of the hub, fetched with your login"
        elif not measured.id.startswith(BUILTIN_PREFIX):
            where = f"the files at {_real(Path(measured.id))}"
        yield "measured by", f"{measured.id}: {where}"
    if recipe.adapter.init_from is not None:
        yield "begins with", str(_real(Path(recipe.adapter.init_from)))
    chosen = dict.fromkeys(f"{kind}/{name}" for kind, name in chosen_drop_ins(recipe))
    yield "drop-ins", f"{', '.join(chosen)}: all of them shipped"
    batch = recipe.train.batch_size or f"{recipe.train.global_batch_size} over all processes"
    yield "steps", f"{recipe.train.steps} where it is trained, batch size {batch}"


def of_run(run_dir: RunDir, ledger: Ledger) -> StrangersRecipe | None:
    """Return the recipe of a run that is not in the user's own list of runs; None for one that is.

    Raises:
        RecipeError: It cannot be read.
        CorruptError: Nor can the record of its steering, or of its processes.
        RefusedError: It would start processes on other machines.
    """
    if is_own(run_dir, ledger):
        return None
    _refuse_hosts(run_dir)
    origin = str(run_dir.recipe.path)
    changes = ChangeRecord.read(run_dir.changes) or ChangeRecord()
    return StrangersRecipe(read_recipe_text(run_dir.recipe, origin), origin, changes=changes)


def of_adapter(metadata: Mapping[str, Any], path: Path) -> StrangersRecipe:
    """Return the recipe that an adapter file carries.

    Raises:
        RecipeError: It carries none.
    """
    text = metadata.get(RECIPE_KEY)
    if not isinstance(text, str):
        raise RecipeError(
            f"{clean(path)} does not say which model and prompts it was trained on.",
            "Only adapters that LOBA-Trainer wrote carry their recipe; name one that says it,"
            " as in --recipe sdxl/slider.",
        )
    return StrangersRecipe(text, str(path))


def _refuse_hosts(run_dir: RunDir) -> None:
    """Refuse a run whose record would have this user's ssh log in to hosts that it names."""
    shape = LaunchShape.read(run_dir)
    if shape is None:
        return
    others = [host.name for host in shape.hosts[1:]]
    if others or shape.remote_python is not None:
        named = clean(", ".join(others) or shape.remote_python)
        raise RefusedError(
            f"{clean(run_dir.launch)} has processes started by ssh ({named}), and the run is not in"
            " your list of runs.",
            "Remove that file, and name hosts of your own: loba run --resume RUN --hosts LIST",
        )


def is_own(run_dir: RunDir, ledger: Ledger) -> bool:
    """Say whether a run was started by this user here: their own list of runs has its folder."""
    here = os.path.realpath(run_dir.path)
    return any(os.path.realpath(each.path) == here for each in ledger.runs())


def _paths_of(recipe: Recipe) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield every path in a recipe with its key."""
    model = recipe.base_model
    if not model.id.startswith(BUILTIN_PREFIX) and not _is_hub_id(repository_of(model.id)):
        yield ("base_model", "id"), model.id
    if model.vae is not None:
        yield ("base_model", "vae"), model.vae
    if model.config is not None and not _is_hub_id(model.config):
        yield ("base_model", "config"), model.config
    for measured in measure_models(recipe, SHIPPED):
        if not measured.id.startswith(BUILTIN_PREFIX) and not measured.is_on_hub:
            key = (int(part) if part.isdecimal() else part for part in measured.key.split("."))
            yield (*key, "model"), measured.id
    yield from paths_of(recipe)


def _is_hub_id(model: str) -> bool:
    # A folder of that name comes first, as it does where models are looked for.
    return is_repository(model) and not Path(model).exists()


def _path_problem(value: str, allowed: Sequence[Path]) -> str:
    path = _real(Path(value))
    if any(path.is_relative_to(folder) for folder in allowed):
        return ""
    if Path(value).is_absolute() or value.startswith(("~", "\\")):
        return "a recipe from elsewhere may not name a folder of this machine"
    if ".." in Path(value).parts:
        return "a recipe from elsewhere may not lead out of the current folder"
    return ""


def _real(path: Path) -> Path:
    with suppress(RecipeError):  # there is no such user
        path = with_home(path)
    return Path(os.path.realpath(path))
