"""Fetch one revision of a hub model: only what a diffusers pipeline needs, safetensors only."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from loba_tui.core.associate.caches import hub_fetch
from loba_tui.core.associate.caches.hub import hold_repository
from loba_tui.core.associate.caches.hub_fetch import NoBar, WantedFile
from loba_tui.core.associate.caches.hub_layout import folder_of
from loba_tui.core.associate.caches.hub_query import show_size
from loba_tui.core.associate.safe_files import PICKLE_SUFFIXES, refuse_pickle
from loba_tui.core.errors import RecipeError, ResourceError

logger = logging.getLogger(__name__)

OnFetch = Callable[[int, int], None]
"""Told bytes that came, and all that are to come."""

_INDEX_NAME = "model_index.json"
UNUSED_COMPONENTS = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of pipelines that neither training nor drawing needs: not fetched, and not loaded.

The safety checker of SD 1.x alone has 1.2 GB, and blacks out what it takes for unfit: a proof could
not be read off such pictures.
"""
_TEXT_SUFFIXES = (".json", ".txt", ".model")
_LOG_SECONDS = 15.0
_UNREACHABLE = (OfflineModeIsEnabled, HTTPError, ConnectionError, TimeoutError)


def fetch_snapshot(
    model_id: str,
    revision: str | None,
    variant: str | None,
    *,
    hint: str,
    on_fetch: OnFetch = lambda done, total: None,
) -> tuple[Path, str]:
    """Download what is missing of a model and return its folder and commit.

    A branch or tag is resolved to its commit first, and everything after is fetched by that. Where
    the hub cannot be reached, the newest complete copy in the cache is taken, and that is logged.

    Args:
        model_id: owner/name.
        revision: Branch, tag or commit; None is main.
        variant: Weight variant such as fp16; components without it fall back to the plain files.
        hint: What to say beside "there is no such model".
        on_fetch: Told how far it is; from several threads. What it raises ends the fetching, and
            what came is kept.
    """
    root = Path(constants.HF_HUB_CACHE)
    with explained(model_id, revision, hint), hold_repository(root, folder_of(model_id)):
        api = HfApi()
        commit = hub_fetch.asked(lambda: api.resolve_revision(model_id, revision=revision).resolved)
        try:
            files = hub_fetch.list_files(api, model_id, commit)
        except _UNREACHABLE as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise  # the hub was reached, and says no
            return _cached_snapshot(model_id, commit, error), commit
        if _INDEX_NAME not in files:
            raise _not_a_pipeline(model_id, list(files))
        index = hub_fetch.with_state(root, model_id, commit, files[_INDEX_NAME])
        hub_fetch.fetch_files(root, model_id, commit, [index], lambda *_: None)
        index_path = hf_hub_download(model_id, _INDEX_NAME, revision=commit, tqdm_class=NoBar)
        names = select_files(model_id, list(files), component_names(index_path), variant)
        wanted = [hub_fetch.with_state(root, model_id, commit, files[name]) for name in names]
        log = _FetchLog(model_id, commit, hub_fetch.total(wanted), on_fetch)
        hub_fetch.fetch_files(root, model_id, commit, wanted, log.report)
        return Path(index_path).parent, commit


def select_files(
    model_id: str, files: Sequence[str], components: Sequence[str], variant: str | None
) -> list[str]:
    """Return the files of a repository that a pipeline of these components needs.

    Repositories hold the same weights several times over (single file, fp16, flax, ONNX): fetching
    all of SD-XL's takes 70 GB where one set is 7.

    Raises:
        RefusedError: A component has its weights as pickles only.
    """
    wanted = [_INDEX_NAME, *(name for name in files if name == "loba.json")]
    for component in components:
        inside = [name for name in files if PurePosixPath(name).parent.as_posix() == component]
        wanted += [n for n in inside if n.endswith(_TEXT_SUFFIXES) and "safetensors.index" not in n]
        weights = [n for n in inside if n.endswith((".safetensors", ".safetensors.index.json"))]
        of_variant = [n for n in weights if variant and f".{variant}" in PurePosixPath(n).name]
        plain = [n for n in weights if _is_plain(PurePosixPath(n).name)]
        wanted += of_variant or plain
        if not weights:
            for name in inside:
                refuse_pickle(Path(f"{model_id}/{name}"))
    return list(dict.fromkeys(wanted))


def component_names(index_path: str) -> list[str]:
    """Return the folders that a model_index.json says the pipeline consists of, unused ones not."""
    index = json.loads(Path(index_path).read_text("utf-8"))
    used = {name: value for name, value in index.items() if name not in UNUSED_COMPONENTS}
    return [name for name, value in used.items() if isinstance(value, list) and value and value[0]]


def _is_plain(name: str) -> bool:
    """Whether a weight file is of no variant, as model-00001-of-00002.safetensors."""
    return "." not in name.removesuffix(".index.json").removesuffix(".safetensors")


def _cached_snapshot(model_id: str, commit: str, cause: Exception) -> Path:
    """Return the folder of an earlier download, for when the hub cannot be asked."""
    try:
        index_path = hf_hub_download(model_id, _INDEX_NAME, revision=commit, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise _unreachable(model_id, cause) from error
    folder = Path(index_path).parent
    if not all((folder / name).is_dir() for name in component_names(index_path)):
        raise _unreachable(model_id, cause) from cause
    logger.warning("the hub cannot be reached; %s is taken from the cache", model_id)
    return folder


def _advice(status: int) -> str:
    """Return what to do about a status that the hub answered."""
    if status == 401:
        return "It does not accept your login; log in anew with `hf auth login`."
    if status == 403:
        return "Your token does not allow this; give it that right on the hub's page of tokens."
    if status == 404:
        return "Something of it was removed in between; start again."
    if status == 429:
        return "That is too many requests in a while; wait some minutes."
    return "Try again later; what was fetched is kept."


def _unreachable(
    model_id: str, cause: BaseException, section: str = "base_model."
) -> ResourceError:
    return ResourceError(
        f"{section}id: {model_id} is not complete in the cache, and the hub cannot be reached "
        f"({type(cause).__name__}).",
        "Connect, or name a local folder or a built-in model.",
    )


class _FetchLog:
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
        """Take in bytes that came."""
        with self._lock:
            self._came += num_bytes
            came, is_due = self._came, time.monotonic() - self._written > _LOG_SECONDS
            if is_due:
                self._written = time.monotonic()
        if is_due:
            logger.info("%s: %s of %s", self._what, show_size(came), show_size(self._size))
        self._on_fetch(came, self._size)


def _not_a_pipeline(model_id: str, files: Sequence[str]) -> Exception:
    """Say what a repository without model_index.json is instead."""
    pickles = [name for name in files if name.endswith(PICKLE_SUFFIXES)]
    if pickles and not any(name.endswith(".safetensors") for name in files):
        try:
            refuse_pickle(Path(pickles[0]))
        except Exception as error:  # noqa: BLE001  the refusal itself is what is returned
            return error
    return RecipeError(
        f"base_model.id: {model_id} is not a diffusers pipeline: it has no {_INDEX_NAME}.",
        "Name a repository in diffusers' layout; adapters and single files are not base models.",
    )


@contextmanager
def explained(
    model_id: str, revision: str | None, hint: str, *, section: str = "base_model."
) -> Iterator[None]:
    """Turn the hub's errors into what the user can do about them.

    Args:
        model_id: owner/name.
        revision: As it was asked for.
        hint: What to say beside "there is no such model".
        section: What stands before `id` and `revision` in messages.
    """
    try:
        yield
    except GatedRepoError as error:
        raise RecipeError(
            f"{section}id: {model_id} is gated; its authors ask you to accept terms.",
            f"Accept them on the page of {model_id}, then log in with `hf auth login`.",
        ) from error
    except RevisionNotFoundError as error:
        raise RecipeError(
            f"{section}revision: {model_id} has no revision {revision!r}.",
            "Leave it out for the newest, or name a branch, tag or commit.",
        ) from error
    except RepositoryNotFoundError as error:
        raise RecipeError(
            f"{section}id: the hub shows no {model_id} to you, and there is no such folder.",
            f"{hint} If it is private, log in with `hf auth login`.",
        ) from error
    except HFValidationError as error:
        raise RecipeError(f"{section}id: {model_id!r} is not a model name.", hint) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise ResourceError(
            f"{section}id: the hub answered {status} for {model_id}.", _advice(status)
        ) from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(model_id, error.__cause__ or error, section) from error
    except RevisionResolutionError as error:
        raise _unreachable(model_id, error.__cause__ or error, section) from error
    except _UNREACHABLE as error:
        raise ResourceError(
            f"{section}id: the connection to the hub broke while fetching {model_id}.",
            "Start again; what was fetched is kept.",
        ) from error
