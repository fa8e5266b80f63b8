"""Fetch a repository into the cache through the hub's client: planned first, then file by file.

What is there already is not fetched again, so a pull that broke goes on where it was.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, hf_hub_download

from loba_tui.core import names
from loba_tui.core.associate.caches.hub.cache import hold_repository
from loba_tui.core.associate.caches.hub.layout import COMMIT, folder_of
from loba_tui.core.associate.caches.hub.paths import open_folder, parent_of
from loba_tui.core.associate.caches.transfer import fetch as hub_fetch
from loba_tui.core.associate.caches.transfer.fetch import NoBar, Report, WantedFile
from loba_tui.core.associate.caches.transfer.hub_client import hub_api, resolve
from loba_tui.core.associate.caches.transfer.hub_errors import explained
from loba_tui.core.associate.caches.transfer.retry import asked
from loba_tui.core.associate.pipeline_files import INDEX_NAME, component_names, select_files
from loba_tui.core.associate.safe_files import PICKLE_SUFFIXES
from loba_tui.core.errors import RecipeError
from loba_tui.core.text import clean, did_you_mean

_HINT = "Names are owner/name, as on the hub's pages."


@dataclass(frozen=True)
class PullPlan:
    """Files that a pull would fetch.

    Attributes:
        commit: What the revision is just now; everything is fetched by it.
        skipped: Pickles, which can run code when they are loaded.
    """

    model_id: str
    revision: str
    commit: str
    files: tuple[WantedFile, ...]
    skipped: tuple[str, ...]

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def to_fetch(self) -> int:
        """Return the bytes that are not in the cache yet."""
        return hub_fetch.total(self.files)


def plan_pull(
    model_id: str, revision: str | None, *, variant: str | None, only: Sequence[str]
) -> PullPlan:
    """Ask the hub what a pull would fetch; nothing is written to the cache.

    Args:
        model_id: A repository, or one file of it: owner/name:file.safetensors.
        revision: Branch, tag or commit; None is main.
        variant: Weight variant of a pipeline, such as fp16.
        only: Components of a pipeline, such as unet; empty is all.

    Raises:
        RefusedError: A name leads elsewhere.
        LobaError: The hub cannot be asked, or has no such thing.
    """
    model_id, file = names.file_in_repository(model_id) or (model_id, None)
    names.check_repository(model_id)
    names.check_variant(variant)
    # A throw-away cache: resolving a branch writes it down, and a plan leaves no trace.
    with explained(model_id, revision, _HINT, section=""), tempfile.TemporaryDirectory() as folder:
        api = hub_api()
        commit = resolve(api, model_id, revision, Path(folder))
        listed = hub_fetch.list_files(api, model_id, commit)
        chosen = list(listed)
        if file is not None:
            if file not in listed:
                there = [name for name in chosen if name.lower().endswith(".safetensors")]
                shown = ", ".join(map(clean, there[:5])) or "none"
                raise RecipeError(
                    f"{clean(model_id)} has no file {clean(file)}.",
                    did_you_mean(file, there, f"Such files in it: {shown}."),
                )
            if only:
                raise RecipeError(
                    f"{clean(file)} is one file and has no components to choose.",
                    "Leave --only out.",
                )
            chosen = [file]
        elif INDEX_NAME in listed:
            index = asked(
                lambda: hf_hub_download(
                    model_id, INDEX_NAME, revision=commit, cache_dir=folder, tqdm_class=NoBar
                )
            )
            components = component_names(index)
            chosen = select_files(model_id, chosen, _chosen(components, only), variant)
        elif only:
            raise RecipeError(
                f"{clean(model_id)} is not a diffusers pipeline and has no components.",
                "Leave --only out.",
            )
    skipped = tuple(name for name in chosen if name.lower().endswith(PICKLE_SUFFIXES))
    root = Path(constants.HF_HUB_CACHE)
    files = tuple(
        hub_fetch.with_state(root, model_id, commit, listed.get(name, WantedFile(name, 0)))
        for name in chosen
        if name not in skipped
    )
    return PullPlan(model_id, revision or "main", commit, files, skipped)


def pull(plan: PullPlan, report: Report) -> Path:
    """Fetch what a plan lists and return the revision's folder.

    Raises:
        ResourceError: The disk is too small, or the connection broke; what came is kept.
        CorruptError: A content is not what the hub lists.
    """
    root = Path(os.path.realpath(constants.HF_HUB_CACHE))
    folder = folder_of(plan.model_id)
    with explained(plan.model_id, plan.revision, _HINT, section=""), hold_repository(root, folder):
        hub_fetch.fetch_files(root, plan.model_id, plan.commit, plan.files, report)
        _write_ref(root, folder, plan)
    return root / folder / "snapshots" / plan.commit


def _chosen(components: Sequence[str], only: Sequence[str]) -> list[str]:
    for name in only:
        if name not in components:
            raise RecipeError(
                f"--only: there is no component {clean(name)}.",
                did_you_mean(name, components, f"It has {clean(', '.join(components))}."),
            )
    return [name for name in components if not only or name in only]


def _write_ref(root: Path, folder: str, plan: PullPlan) -> None:
    """Let the branch or tag stand on the commit, as the client does when it fetches by name.

    A revision on no ref is what other tools prune first.
    """
    if COMMIT.fullmatch(plan.revision):
        return
    names.check_revision(plan.revision)
    path = f"{folder}/refs/{plan.revision}"
    with open_folder(root) as descriptor, parent_of(descriptor, path, make=True) as (refs, name):
        temporary = f".{name}.{os.getpid()}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(temporary, flags, 0o644, dir_fd=refs), "w") as file:
                file.write(plan.commit)
            os.replace(temporary, name, src_dir_fd=refs, dst_dir_fd=refs)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=refs)
            raise
