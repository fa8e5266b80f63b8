"""Fetch one revision of a hub model: only what a diffusers pipeline needs, safetensors only."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from loba_tui.core import names
from loba_tui.core.associate.caches.hub.cache import hold_repository
from loba_tui.core.associate.caches.hub.layout import folder_of
from loba_tui.core.associate.caches.transfer import fetch as hub_fetch
from loba_tui.core.associate.caches.transfer.fetch import NoBar, WantedFile
from loba_tui.core.associate.caches.transfer.hub_client import hub_api, resolve
from loba_tui.core.associate.caches.transfer.hub_errors import UNREACHABLE, explained, unreachable
from loba_tui.core.associate.pipeline_files import INDEX_NAME, component_names, select_files
from loba_tui.core.associate.safe_files import PICKLE_SUFFIXES, refuse_pickle
from loba_tui.core.errors import RecipeError
from loba_tui.core.text import clean, did_you_mean
from loba_tui.core.units import show_size

logger = logging.getLogger(__name__)

OnFetch = Callable[[int, int], None]
"""Told bytes that came, and all that are to come."""

_LOG_SECONDS = 15.0


def fetch_snapshot(
    model_id: str,
    revision: str | None,
    variant: str | None,
    *,
    hint: str,
    weights: bool = True,
    on_fetch: OnFetch = lambda done, total: None,
) -> tuple[Path, str]:
    """Download what is missing of a model and return its folder and commit.

    A branch or tag is resolved to its commit first, and everything after is fetched by that. Where
    the hub cannot be reached, the newest complete copy in the cache is taken, and that is logged.

    Args:
        revision: Branch, tag or commit; None is main.
        variant: Weight variant such as fp16; components without it fall back to the plain files.
        hint: What to say beside "there is no such model".
        weights: Whether these are wanted too, or the configuration alone.
        on_fetch: Told how far it is; from several threads. What it raises ends the fetching, and
            what came is kept.

    Raises:
        RefusedError: A name leads elsewhere, or the hub tells of one that does.
    """
    names.check_repository(model_id)
    names.check_variant(variant)
    root = Path(constants.HF_HUB_CACHE)
    with explained(model_id, revision, hint), hold_repository(root, folder_of(model_id)):
        api = hub_api()
        commit = resolve(api, model_id, revision)
        try:
            files = hub_fetch.list_files(api, model_id, commit)
        except UNREACHABLE as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise  # the hub was reached, and says no
            return _cached_snapshot(model_id, commit, error), commit
        if INDEX_NAME not in files:
            raise _not_a_pipeline(model_id, list(files))
        index = hub_fetch.with_state(root, model_id, commit, files[INDEX_NAME])
        hub_fetch.fetch_files(root, model_id, commit, [index], lambda *_: None)
        index_path = hf_hub_download(model_id, INDEX_NAME, revision=commit, tqdm_class=NoBar)
        chosen = select_files(model_id, list(files), component_names(index_path), variant)
        if not weights:
            chosen = [name for name in chosen if ".safetensors" not in name]
        wanted = [hub_fetch.with_state(root, model_id, commit, files[name]) for name in chosen]
        log = FetchLog(model_id, commit, hub_fetch.total(wanted), on_fetch)
        hub_fetch.fetch_files(root, model_id, commit, wanted, log.report)
        return Path(index_path).parent, commit


def fetch_configuration(model_id: str) -> Path:
    """Return the folder of a hub model's configuration and tokenizers, without its weights.

    What the cache has is taken without asking the hub.

    Raises:
        LobaError: There is no such model, or the hub cannot be reached.
    """
    names.check_repository(model_id)
    cached = try_to_load_from_cache(model_id, INDEX_NAME)
    if isinstance(cached, str):
        folder = Path(cached).parent
        if all((folder / name).is_dir() for name in component_names(cached)):
            return folder
    hint = "Name a diffusers folder, or the hub id of a model with the same networks."
    return fetch_snapshot(model_id, None, None, hint=hint, weights=False)[0]


def fetch_file(
    model_id: str,
    name: str,
    revision: str | None,
    *,
    hint: str,
    on_fetch: OnFetch = lambda done, total: None,
) -> tuple[Path, str]:
    """Download one file of a repository, unless it is in the cache; return it and its commit.

    Args:
        name: The file's path in the repository.
        revision: Branch, tag or commit; None is main.
        hint: What to say beside "there is no such model".
        on_fetch: Told how far it is, as by `fetch_snapshot`.

    Raises:
        RefusedError: A name leads elsewhere, or the hub tells of one that does.
        RecipeError: The repository has no such file.
    """
    names.check_repository(model_id)
    names.check_path(name)
    root = Path(constants.HF_HUB_CACHE)
    with explained(model_id, revision, hint), hold_repository(root, folder_of(model_id)):
        api = hub_api()
        commit = resolve(api, model_id, revision)
        cached = try_to_load_from_cache(model_id, name, revision=commit)
        if isinstance(cached, str):
            return Path(cached), commit
        try:
            files = hub_fetch.list_files(api, model_id, commit)
        except UNREACHABLE as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise  # the hub was reached, and says no
            raise unreachable(model_id, error) from error
        if name not in files:
            known = [each for each in files if each.endswith(".safetensors") and "/" not in each]
            raise RecipeError(
                f"base_model.id: {model_id} has no file {clean(name)}.",
                did_you_mean(name, known, f"It has {clean(', '.join(known[:5])) or 'none'}."),
            )
        wanted = hub_fetch.with_state(root, model_id, commit, files[name])
        log = FetchLog(model_id, commit, hub_fetch.total([wanted]), on_fetch)
        hub_fetch.fetch_files(root, model_id, commit, [wanted], log.report)
        return Path(hf_hub_download(model_id, name, revision=commit, tqdm_class=NoBar)), commit


def _cached_snapshot(model_id: str, commit: str, cause: Exception) -> Path:
    try:
        index_path = hf_hub_download(model_id, INDEX_NAME, revision=commit, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise unreachable(model_id, cause) from error
    folder = Path(index_path).parent
    if not all((folder / name).is_dir() for name in component_names(index_path)):
        raise unreachable(model_id, cause) from cause
    logger.warning("the hub cannot be reached; %s is taken from the cache", model_id)
    return folder


class FetchLog:
    """Tells how far the fetching of a model is, and writes it down a few times a minute."""

    def __init__(self, model_id: str, commit: str, size: int, on_fetch: OnFetch) -> None:
        self._what = f"{model_id}@{commit[:12]}"
        self._size = size
        self._on_fetch = on_fetch
        self._came = 0
        self._written = time.monotonic()
        self._lock = threading.Lock()
        if size:
            logger.info("fetching %s of %s", show_size(size), self._what)

    def report(self, _file: WantedFile | None, num_bytes: int) -> None:
        """Count bytes that came, from any thread."""
        with self._lock:
            self._came += num_bytes
            came, is_due = self._came, time.monotonic() - self._written > _LOG_SECONDS
            if is_due:
                self._written = time.monotonic()
        if is_due:
            logger.info("%s: %s of %s", self._what, show_size(came), show_size(self._size))
        self._on_fetch(came, self._size)


def _not_a_pipeline(model_id: str, files: Sequence[str]) -> Exception:
    pickles = [name for name in files if name.endswith(PICKLE_SUFFIXES)]
    if pickles and not any(name.endswith(".safetensors") for name in files):
        try:
            refuse_pickle(Path(pickles[0]))
        except Exception as error:  # noqa: BLE001  the refusal itself is what is returned
            return error
    checkpoints = [name for name in files if name.endswith(".safetensors")]
    return RecipeError(
        f"base_model.id: {model_id} is not a diffusers pipeline: it has no {INDEX_NAME}.",
        f"Where a file of it is a whole checkpoint, name that: {model_id}:{clean(checkpoints[0])}"
        if checkpoints
        else "Name a repository in diffusers' layout, or a file of one: owner/name:file.",
    )
