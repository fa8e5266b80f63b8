"""Fetch a repository into the cache through the hub's client: planned first, then file by file.

What is there already is not fetched again, so a pull that broke goes on with the next file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.hf_api import RepoFile
from tqdm import tqdm

from loba_tui.core.associate.caches.hub import hold_repository
from loba_tui.core.associate.caches.hub_files import open_folder, parent_of
from loba_tui.core.associate.caches.hub_layout import COMMIT, folder_of
from loba_tui.core.associate.caches.hub_query import show_size
from loba_tui.core.associate.containers.hub_source import (
    component_names,
    explained,
    select_files,
)
from loba_tui.core.associate.safe_files import PICKLE_SUFFIXES
from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.text import clean, nearest

_INDEX_NAME = "model_index.json"
_HINT = "Names are owner/name, as on the hub's pages."
_WORKERS = 4
# A disk that is filled to the last byte breaks more than this pull.
_RESERVE_BYTES = 256 * 2**20


class PullFile(NamedTuple):
    """A file that is wanted; `is_there` says whether it is in the cache already."""

    path: str
    size: int
    is_there: bool


@dataclass(frozen=True)
class PullPlan:
    """What a pull would fetch.

    Attributes:
        commit: What the revision is just now; everything is fetched by it.
        skipped: Pickles, which can run code when they are loaded.
    """

    model_id: str
    revision: str
    commit: str
    files: tuple[PullFile, ...]
    skipped: tuple[str, ...]

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def to_fetch(self) -> int:
        """Return the bytes that are not in the cache yet."""
        return sum(file.size for file in self.files if not file.is_there)


def plan_pull(
    model_id: str, revision: str | None, *, variant: str | None, only: Sequence[str]
) -> PullPlan:
    """Ask the hub what a pull would fetch; nothing is written to the cache.

    Args:
        model_id: owner/name.
        revision: Branch, tag or commit; None is main.
        variant: Weight variant of a pipeline, such as fp16.
        only: Components of a pipeline, such as unet; empty is all.

    Raises:
        LobaError: The hub cannot be asked, or has no such thing.
    """
    # A throw-away cache: resolving a branch writes it down, and a plan leaves no trace.
    with (
        explained(model_id, revision, _HINT, section=""),
        tempfile.TemporaryDirectory() as folder,
    ):
        api = HfApi()
        commit = api.resolve_revision(model_id, revision=revision, cache_dir=folder).resolved
        tree = api.list_repo_tree(model_id, revision=commit, recursive=True)
        sizes = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
        names = list(sizes)
        if _INDEX_NAME in sizes:
            index = hf_hub_download(
                model_id, _INDEX_NAME, revision=commit, cache_dir=folder, tqdm_class=_Bar
            )
            components = component_names(index)
            names = select_files(model_id, names, _chosen(components, only), variant)
        elif only:
            raise RecipeError(
                f"{clean(model_id)} is not a diffusers pipeline and has no components.",
                "Leave --only out.",
            )
    skipped = tuple(name for name in names if name.lower().endswith(PICKLE_SUFFIXES))
    files = tuple(
        PullFile(name, sizes.get(name, 0), _is_cached(model_id, name, commit))
        for name in names
        if name not in skipped
    )
    return PullPlan(model_id, revision or "main", commit, files, skipped)


def pull(plan: PullPlan, report: Callable[[PullFile | None, int], None]) -> Path:
    """Fetch what a plan lists and return the revision's folder.

    Args:
        plan: Of `plan_pull`.
        report: Called with a file that is complete, or with None and a number of bytes that came;
            from several threads.

    Raises:
        ResourceError: The disk is too small, or the connection broke; what came is kept.
    """
    root = Path(os.path.realpath(constants.HF_HUB_CACHE))
    _check_disk(root, plan.to_fetch)
    folder = folder_of(plan.model_id)

    class Counting(_Bar):
        """Counts bytes instead of drawing them."""

        def update(self, n: float | None = 1) -> None:
            report(None, int(n or 0))

    def fetch(file: PullFile) -> PullFile:
        hf_hub_download(plan.model_id, file.path, revision=plan.commit, tqdm_class=Counting)
        return file

    missing = [file for file in plan.files if not file.is_there]
    with (
        explained(plan.model_id, plan.revision, _HINT, section=""),
        hold_repository(root, folder),
        ThreadPoolExecutor(_WORKERS) as pool,
    ):
        waiting = [pool.submit(fetch, file) for file in missing]
        try:
            for done in as_completed(waiting):
                report(done.result(), 0)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        _write_ref(root, folder, plan)
    return root / folder / "snapshots" / plan.commit


def _chosen(components: Sequence[str], only: Sequence[str]) -> list[str]:
    for name in only:
        if name not in components:
            meant = nearest(name, components)
            raise RecipeError(
                f"--only: there is no component {clean(name)}.",
                f"Did you mean {meant}?" if meant else f"It has {clean(', '.join(components))}.",
            )
    return [name for name in components if not only or name in only]


def _is_cached(model_id: str, name: str, commit: str) -> bool:
    return isinstance(try_to_load_from_cache(model_id, name, revision=commit), str)


def _check_disk(root: Path, needed: int) -> None:
    there = root
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed and free < needed + _RESERVE_BYTES:
        raise ResourceError(
            f"{show_size(needed)} are to be fetched, and {clean(there)} has {show_size(free)} "
            "free.",
            "Free some with `loba cache prune` and `loba cache trash empty`, or fetch less: "
            "--variant fp16, --only unet.",
        )


def _write_ref(root: Path, folder: str, plan: PullPlan) -> None:
    """Let the branch or tag stand on the commit, as the client does when it fetches by name.

    A revision on no ref is what other tools prune first.
    """
    if COMMIT.fullmatch(plan.revision):
        return
    descriptor = open_folder(root)
    try:
        with parent_of(descriptor, f"{folder}/refs/{plan.revision}", make=True) as (refs, name):
            temporary = f".{name}.{os.getpid()}.tmp"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o644, dir_fd=refs), "w") as file:
                file.write(plan.commit)
            os.replace(temporary, name, src_dir_fd=refs, dst_dir_fd=refs)
    finally:
        os.close(descriptor)


class _Bar(tqdm):
    """The progress bar that is not drawn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})
