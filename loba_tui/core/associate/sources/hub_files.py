"""Fetch named files of one commit of a hub repository, whatever kind of model it holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from loba_tui.core import names
from loba_tui.core.associate.caches.hub.cache import hold_repository
from loba_tui.core.associate.caches.hub.layout import folder_of
from loba_tui.core.associate.caches.transfer import fetch as hub_fetch
from loba_tui.core.associate.caches.transfer.fetch import NoBar
from loba_tui.core.associate.caches.transfer.hub_client import hub_api
from loba_tui.core.associate.caches.transfer.hub_errors import UNREACHABLE, explained
from loba_tui.core.associate.safe_files import PICKLE_SUFFIXES, refuse_pickle
from loba_tui.core.associate.sources.hub_snapshot import FetchLog, OnFetch
from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.text import clean

_HINT = "Name a folder, or the hub id of a model with safetensors."


def named_in_cache(model_id: str, commit: str, wanted: Sequence[str]) -> Path | None:
    """Return the folder of a commit in the cache if it has all these files; the hub is not asked.

    Raises:
        RefusedError: A name leads elsewhere.
    """
    _check(model_id, commit, wanted)
    found = [try_to_load_from_cache(model_id, name, revision=commit) for name in wanted]
    paths = [Path(each) for each in found if isinstance(each, str)]
    return paths[0].parent if paths and len(paths) == len(wanted) else None


def fetch_named(
    model_id: str,
    commit: str,
    wanted: Sequence[str],
    *,
    section: str,
    on_fetch: OnFetch = lambda done, total: None,
) -> Path:
    """Download those of these files that a commit has and the cache has not; return their folder.

    Args:
        wanted: Names at the top of the repository; what it lacks of them is left out.
        section: What stands before `model` and `revision` in messages, such as `proof.measure.`.
        on_fetch: Told how far it is; from several threads. What it raises ends the fetching, and
            what came is kept.

    Raises:
        RecipeError: There is no such model, or it has none of these files.
        RefusedError: It has its weights as pickles only, or a name leads elsewhere.
        ResourceError: The hub cannot be reached.
    """
    _check(model_id, commit, wanted)
    root = Path(constants.HF_HUB_CACHE)
    with (
        explained(model_id, commit, _HINT, section=section, key="model"),
        hold_repository(root, folder_of(model_id)),
    ):
        try:
            files = hub_fetch.list_files(hub_api(), model_id, commit)
        except UNREACHABLE as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise  # the hub was reached, and says no
            raise ResourceError(
                f"{section}model: {clean(model_id)} at {commit[:12]} is not in the cache, and the"
                f" hub cannot be reached ({type(error).__name__}).",
                "Connect for this once, or copy the cache of a machine that has run `hf download"
                f" {clean(model_id)} --revision {commit}`.",
            ) from error
        if not any(name.endswith(".safetensors") and name in files for name in wanted):
            pickles = [name for name in files if name.endswith(PICKLE_SUFFIXES)]
            if pickles:
                refuse_pickle(Path(model_id) / pickles[0])
            raise RecipeError(
                f"{section}model: {clean(model_id)} has no model.safetensors at {commit[:12]}.",
                _HINT,
            )
        there = [files[name] for name in wanted if name in files]
        states = [hub_fetch.with_state(root, model_id, commit, file) for file in there]
        log = FetchLog(model_id, commit, hub_fetch.total(states), on_fetch)
        hub_fetch.fetch_files(root, model_id, commit, states, log.report)
        first = hf_hub_download(model_id, there[0].path, revision=commit, tqdm_class=NoBar)
        return Path(first).parent


def _check(model_id: str, commit: str, wanted: Sequence[str]) -> None:
    names.check_repository(model_id)
    names.check_commit(commit)
    for name in wanted:
        names.check_path(name)
