"""The recipe that a command names: a file, a shipped one, or one on the hub.

`hub://user/repo/recipe.yaml@revision` is fetched at one commit. Such a recipe is a stranger's: it
meets every check that a local one does, and is shown and asked about before it runs.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loba_tui.core.errors import RecipeError
from loba_tui.core.recipe import shipped
from loba_tui.core.run.directory import RunDir
from loba_tui.core.text import clean, did_you_mean

if TYPE_CHECKING:
    from loba_tui.core.associate.caches.transfer.fetch import WantedFile
    from loba_tui.core.plugins import Plugins
    from loba_tui.core.recipe.schema import Recipe

# What typer makes a path of has lost one of the two slashes.
_ADDRESS = re.compile(r"hub:/{1,2}([^/@]+/[^/@]+)/([^@]+)(?:@(.+))?")
_FORM = "Such recipes are written hub://user/repo/recipe.yaml or hub://user/repo/recipe.yaml@v1"


@dataclass(frozen=True)
class OpenedRecipe:
    """A recipe file, and where it is from.

    Attributes:
        origin: `hub://user/repo/recipe.yaml@commit`; None for a local one.
        page: Where it can be read on the hub.
    """

    path: Path
    origin: str | None = None
    page: str = ""
    asked: str = ""

    @property
    def name(self) -> str:
        """Return what it is called in messages."""
        return self.origin or str(self.path)

    def lines(self) -> Iterator[str]:
        """Yield where it is from, and its text, for reading."""
        from loba_tui.core.recipe.load import read_recipe_text

        yield f"{clean(self.origin)} ({clean(self.asked)})"
        yield clean(self.page)
        for line in read_recipe_text(self.path, self.name).splitlines():
            yield f"  {clean(line)}"

    def load(self, overrides: Sequence[str], plugins: Plugins) -> Recipe:
        """Return the recipe with its overrides; its problems name where it is from."""
        from loba_tui.core.recipe.load import load_recipe

        return load_recipe(self.path, overrides, plugins=plugins, origin=self.origin)

    def record(self, run_dir: RunDir) -> None:
        """Write into a run's folder where its recipe is from."""
        if self.origin is not None:
            facts = {"version": 1, "recipe": self.origin, "page": self.page, "time": time.time()}
            run_dir.origin.replace(json.dumps(facts, indent=1).encode(), sync=True)


def is_address(wanted: Path | None) -> bool:
    """Say whether a recipe is named by an address on the hub."""
    return wanted is not None and str(wanted).startswith("hub:/")


def open_recipe(wanted: Path | None) -> OpenedRecipe:
    """Return the recipe that a command names: a file, a shipped one, or one on the hub.

    Raises:
        RecipeError: There is no such recipe.
        LobaError: The hub cannot be asked, or does not show it.
    """
    if wanted is not None and is_address(wanted):
        return _fetch(str(wanted))
    return OpenedRecipe(find_recipe(wanted))


def find_recipe(wanted: Path | None) -> Path:
    """Return a recipe file; a shipped one stands in for a missing file of its name.

    Raises:
        RecipeError: There is no such file and no shipped recipe of that name.
    """
    if wanted is None:
        raise RecipeError(
            "No recipe is given.",
            f"Try: loba run {' or loba run '.join(shipped.names()[:3]) or 'FILE.yaml'}",
        )
    if wanted.exists():
        return wanted
    found = shipped.find(wanted)
    if found is not None:
        return found
    names = shipped.names()
    raise RecipeError(
        f"{wanted}: there is no such recipe.",
        did_you_mean(wanted.stem, names, f"Shipped recipes: {', '.join(names)}."),
    )


def _fetch(address: str) -> OpenedRecipe:
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    from loba_tui.core.associate.caches.hub.cache import hold_repository
    from loba_tui.core.associate.caches.hub.layout import folder_of
    from loba_tui.core.associate.caches.transfer import fetch as hub_fetch
    from loba_tui.core.associate.caches.transfer.hub_errors import explained
    from loba_tui.core.associate.caches.transfer.retry import asked

    matched = _ADDRESS.fullmatch(address)
    if matched is None or {"", ".", ".."} & set(matched.group(2).split("/")):
        raise RecipeError(f"{clean(address, limit=200)} is not a recipe on the hub.", _FORM)
    repo_id, path, revision = matched.groups()
    root = Path(constants.HF_HUB_CACHE)
    api = HfApi()
    with (
        explained(repo_id, revision, _FORM + ".", section=""),
        hold_repository(root, folder_of(repo_id)),
    ):
        commit = asked(lambda: api.resolve_revision(repo_id, revision=revision).resolved)
        there = try_to_load_from_cache(repo_id, path, revision=commit)
        if not isinstance(there, str):
            files = hub_fetch.list_files(api, repo_id, commit)
            file = _chosen(files, path, f"{repo_id}@{revision or 'main'}")
            hub_fetch.fetch_files(root, repo_id, commit, [file], lambda *_: None)
            there = str(try_to_load_from_cache(repo_id, path, revision=commit))
    return OpenedRecipe(
        Path(there),
        f"hub://{repo_id}/{path}@{commit}",
        f"{constants.ENDPOINT}/{repo_id}/blob/{commit}/{path}",
        revision or "main",
    )


def _chosen(files: dict[str, WantedFile], path: str, where: str) -> WantedFile:
    from loba_tui.core.recipe.load import MAX_BYTES

    recipes = [name for name in files if name.endswith((".yaml", ".yml"))]
    if path not in files:
        raise RecipeError(
            f"{clean(where)} has no {clean(path, limit=120)}.",
            did_you_mean(path, recipes, _has(recipes)),
        )
    if path not in recipes:
        raise RecipeError(f"{clean(path, limit=120)} is not a recipe.", _has(recipes))
    if files[path].size > MAX_BYTES:
        raise RecipeError(
            f"{clean(path)} has {files[path].size} bytes; a recipe has at most {MAX_BYTES}."
        )
    return files[path]


def _has(recipes: Sequence[str]) -> str:
    if not recipes:
        return "It has no recipes."
    return f"It has {', '.join(clean(name, limit=60) for name in recipes[:8])}."
