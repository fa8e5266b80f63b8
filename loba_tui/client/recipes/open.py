"""The recipe that a command names: a file, a shipped one, or one on the hub.

`hub://user/repo/recipe.yaml@revision` is fetched at one commit, as anybody: without the user's
login, unless they said that it may be used. Such a recipe is a stranger's (`recipes.strangers`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loba_tui.core.errors import RecipeError
from loba_tui.core.names import check_path, check_repository, check_revision
from loba_tui.core.recipe import shipped
from loba_tui.core.run.directory import RunDir
from loba_tui.core.text import clean, did_you_mean

if TYPE_CHECKING:
    from loba_tui.client.recipes.strangers import StrangersRecipe
    from loba_tui.core.associate.caches.transfer.fetch import WantedFile

# What typer makes a path of has lost one of the two slashes.
_ADDRESS = re.compile(r"hub:/{1,2}([^/@]+/[^/@]+)/([^@]+)(?:@(.+))?")
_FORM = "Such recipes are written hub://user/repo/recipe.yaml or hub://user/repo/recipe.yaml@v1"


class NotPublicError(RecipeError):
    """A hub does not show a repository to everybody; with the user's login it may."""


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

    @property
    def stranger(self) -> StrangersRecipe | None:
        """Return it as a recipe that this user did not write; None for a local one.

        Raises:
            RecipeError: It cannot be read.
        """
        from loba_tui.client.recipes.strangers import StrangersRecipe
        from loba_tui.core.recipe.load import read_recipe_text

        if self.origin is None:
            return None
        text = read_recipe_text(self.path, self.origin)
        return StrangersRecipe(text, self.origin, self.asked, self.page)

    def record(self, run_dir: RunDir) -> None:
        """Write into a run's folder where its recipe is from."""
        if self.origin is not None:
            facts = {"version": 1, "recipe": self.origin, "page": self.page, "time": time.time()}
            run_dir.origin.replace(json.dumps(facts, indent=1).encode(), sync=True)


def is_address(wanted: Path | None) -> bool:
    """Say whether a recipe is named by an address on the hub."""
    return wanted is not None and str(wanted).startswith("hub:/")


def open_recipe(wanted: Path | None, *, login: bool = False) -> OpenedRecipe:
    """Return the recipe that a command names: a file, a shipped one, or one on the hub.

    Args:
        login: Whether the hub may be told who asks.

    Raises:
        RecipeError: There is no such recipe.
        NotPublicError: The hub does not show it without a login.
        RefusedError: The address holds a name that leads elsewhere.
        LobaError: The hub cannot be asked, or does not show it.
    """
    if wanted is not None and is_address(wanted):
        return _fetch(str(wanted), login=login)
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


def has_login() -> bool:
    """Say whether the user has logged in to the hub."""
    from huggingface_hub import get_token

    return get_token() is not None


def _fetch(address: str, *, login: bool) -> OpenedRecipe:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    matched = _ADDRESS.fullmatch(address)
    if matched is None:
        raise RecipeError(f"{clean(address, limit=200)} is not a recipe on the hub.", _FORM)
    repo_id, path, revision = matched.groups()
    check_repository(repo_id)
    check_path(path)
    check_revision(revision)
    try:
        there, commit = _fetch_file(repo_id, path, revision, token=None if login else False)
    except RecipeError as error:
        is_hidden = isinstance(error.__cause__, GatedRepoError | RepositoryNotFoundError)
        if login or not is_hidden:
            raise
        raise NotPublicError(error.message, error.hint) from error
    return OpenedRecipe(
        there,
        f"hub://{repo_id}/{path}@{commit}",
        f"{constants.ENDPOINT}/{repo_id}/blob/{commit}/{path}",
        revision or "main",
    )


def _fetch_file(
    repo_id: str, path: str, revision: str | None, *, token: bool | None
) -> tuple[Path, str]:
    """Return a recipe's file in the cache, fetched if need be, and its commit."""
    from huggingface_hub import constants, try_to_load_from_cache

    from loba_tui.core.associate.caches.hub.cache import hold_repository
    from loba_tui.core.associate.caches.hub.layout import folder_of
    from loba_tui.core.associate.caches.transfer import fetch as hub_fetch
    from loba_tui.core.associate.caches.transfer.hub_client import hub_api, resolve
    from loba_tui.core.associate.caches.transfer.hub_errors import explained

    root = Path(constants.HF_HUB_CACHE)
    api = hub_api(token=token)
    with (
        explained(repo_id, revision, _FORM + ".", section=""),
        hold_repository(root, folder_of(repo_id)),
    ):
        commit = resolve(api, repo_id, revision)
        there = try_to_load_from_cache(repo_id, path, revision=commit)
        if not isinstance(there, str):
            files = hub_fetch.list_files(api, repo_id, commit)
            file = _chosen(files, path, f"{repo_id}@{revision or 'main'}")
            hub_fetch.fetch_files(root, repo_id, commit, [file], lambda *_: None, token=token)
            there = str(try_to_load_from_cache(repo_id, path, revision=commit))
    return Path(there), commit


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
