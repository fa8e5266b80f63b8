"""The plan of `loba push`: which files of a run go to the hub, and what they change there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from loba_tui.client.hub.errors import explained
from loba_tui.client.hub.model_card import hub_base
from loba_tui.client.hub.uploads import PEFT, Upload, collect, refuse_secrets
from loba_tui.client.recipes import strangers
from loba_tui.core.adapter_keys.transformers.families import component_of
from loba_tui.core.associate.caches.transfer.hub_client import hub_api
from loba_tui.core.associate.caches.transfer.hub_errors import UNREACHABLE
from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.errors import RefusedError
from loba_tui.core.names import check_repository, check_revision, repository_of
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.data_paths import portable_model_id
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.text import clean
from loba_tui.models import BUILTIN_PREFIX


@dataclass(frozen=True)
class Choices:
    """The choices of the command line.

    Attributes:
        repo_id: user/name, a name alone, or None for the run's own.
        revision: Branch; None is main.
        license: None takes the base model's.
    """

    repo_id: str | None = None
    is_public: bool = False
    revision: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class PushPlan:
    """The changes that a push would make.

    Attributes:
        parent: The commit that the branch stands on; None where repository or branch is new.
        new: Paths that are not there yet.
        replaced: Paths that are there with another content.
        component: What pipelines call the denoiser that the adapter is for.
    """

    repo_id: str
    is_public: bool
    revision: str
    exists: bool
    parent: str | None
    uploads: tuple[Upload, ...]
    new: tuple[str, ...]
    replaced: tuple[str, ...]
    notes: tuple[str, ...]
    component: str = "unet"

    @property
    def changed(self) -> tuple[Upload, ...]:
        """Return what is not there already."""
        paths = {*self.new, *self.replaced}
        return tuple(each for each in self.uploads if each.path in paths)

    @property
    def load_line(self) -> str:
        """Return the line of Python that loads it."""
        at = "" if self.revision == "main" else f', revision="{self.revision}"'
        if any(each.path.startswith(f"{PEFT}/") for each in self.uploads):
            where = f'"{self.repo_id}", subfolder="{PEFT}"{at}'
            return f"PeftModel.from_pretrained(pipe.{self.component}, {where})"
        return f'pipe.load_lora_weights("{self.repo_id}"{at})'

    @property
    def url(self) -> str:
        """Return the repository's page."""
        return f"{constants.ENDPOINT}/{self.repo_id}"


def plan_push(
    run_dir: RunDir,
    choices: Choices,
    environ: Mapping[str, str],
    *,
    plugins: Plugins,
    needs_login: bool = True,
) -> PushPlan:
    """Return what pushing a finished run would do; nothing is changed on the hub.

    No file may hold a secret of `environ`.

    Raises:
        CorruptError: The run holds no sound adapter.
        RefusedError: A file looks as if it held a token, or the repository is public already.
        LobaError: The hub cannot be asked, or does not let this user in.
    """
    recipe = load_recipe(run_dir.recipe, plugins=plugins)
    base_model = recipe.base_model.id
    check_revision(choices.revision)
    api = hub_api()
    with explained(choices.repo_id or recipe.name):
        user = _user(api, needs_login=needs_login)
        repo_id = _repo_id(choices.repo_id, recipe.name, user)
        # A plan without a login does not know what is there.
        info, branches = (None, {}) if user is None else _look(api, repo_id)
        asked = choices.license
        # What a stranger's run names is not asked for with this user's login.
        is_own = strangers.is_own(run_dir, Ledger.of_user(environ))
        license_id = _license_of(api, base_model) if asked is None and is_own else asked
    _check_visibility(info, repo_id, choices)
    uploads = collect(run_dir, recipe, repo_id, license_id)
    refuse_secrets(uploads, environ)
    revision = choices.revision or "main"
    there = _listed(api, repo_id, revision, branches)
    return PushPlan(
        repo_id=repo_id,
        is_public=choices.is_public,
        revision=revision,
        exists=info is not None,
        parent=branches.get(revision),
        uploads=uploads,
        new=tuple(each.path for each in uploads if each.path not in there),
        replaced=tuple(each.path for each in uploads if each.replaces(there)),
        notes=tuple(_notes(base_model, license_id)),
        component=component_of(check_safetensors(run_dir.adapter).get("__metadata__", {})),
    )


def _notes(base_model: str, license_id: str | None) -> Iterator[str]:
    if license_id is None:
        yield "no licence is given; --license names one, such as openrail++"
    if hub_base(base_model) is None and not base_model.startswith(BUILTIN_PREFIX):
        yield (
            f"the recipe and the adapter name {clean(portable_model_id(base_model))}, which is on"
            " this machine; others cannot load it"
        )


def _user(api: HfApi, *, needs_login: bool) -> str | None:
    try:
        return str(api.whoami()["name"])
    except (LocalTokenNotFoundError, OfflineModeIsEnabled):
        if needs_login:
            raise
        return None


def _repo_id(wanted: str | None, recipe_name: str, user: str | None) -> str:
    name = wanted or re.sub(r"[^A-Za-z0-9._-]+", "-", recipe_name).strip("-._") or "adapter"
    if "/" not in name:
        name = f"{user or 'you'}/{name}"
    check_repository(name)
    validate_repo_id(name)
    return name


def _look(api: HfApi, repo_id: str) -> tuple[Any, Mapping[str, str]]:
    """Return the repository, None where it is not there, and the commits of its branches."""
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return None, {}
    branches = api.list_repo_refs(repo_id).branches
    return info, {each.name: each.target_commit for each in branches}


def _listed(api: HfApi, repo_id: str, revision: str, branches: Mapping[str, str]) -> dict[str, str]:
    """Return the files of a branch and what each is listed by; a new branch begins as main."""
    commit = branches.get(revision, branches.get("main"))
    if commit is None:
        return {}
    with explained(repo_id):
        info = api.model_info(repo_id, revision=commit, files_metadata=True)
    return {
        each.rfilename: str(each.lfs.sha256 if each.lfs else each.blob_id)
        for each in info.siblings or []
    }


def _license_of(api: HfApi, base_model: str) -> str | None:
    if base_model.startswith(BUILTIN_PREFIX):
        return "apache-2.0"
    if hub_base(base_model) is None:
        return None
    try:
        data = api.model_info(repository_of(base_model)).card_data
    except UNREACHABLE:  # what the hub answers is among them
        return None
    found = data.get("license") if data is not None else None
    return clean(found, limit=60) if isinstance(found, str) and found != "other" else None


def _check_visibility(info: Any, repo_id: str, choices: Choices) -> None:
    if info is None:
        return
    if not info.private and not choices.is_public:
        raise RefusedError(
            f"{repo_id} is there already, and everybody can read it.",
            "Add --public if that is meant, or name another one with --repo.",
        )
    if info.private and choices.is_public:
        raise RefusedError(
            f"{repo_id} is there already, and it is private.",
            "Leave --public out; who may see it is changed in its settings on the hub.",
        )
