"""`loba push`: what of a run goes to the hub, what that changes there, and the upload itself.

A run folder may come from anywhere: only plain files of known names are taken from it, and a file
that holds what looks like an access token stops everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from loba_tui.client.hub.model_card import BUILTIN, CardFacts, hub_base, model_card
from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.errors import CorruptError, InUseError, RecipeError, RefusedError, ResourceError
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.data_paths import portable
from loba_tui.core.recipe.load import dump_recipe, load_recipe
from loba_tui.core.redact import Redactor
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.text import clean

# The one that `load_lora_weights` takes of several.
WEIGHTS = "pytorch_lora_weights.safetensors"
# Of a kind that it does not take; PEFT loads the folder.
OTHER_WEIGHTS = "adapter.safetensors"
PEFT = "peft"
_PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
KOHYA = "adapter.kohya.safetensors"
CARD, RECIPE, REPORT, STRIP, PICTURE = (
    "README.md", "recipe.yaml", "report.json", "strip.png", "report.png",
)  # fmt: skip
_BUILTIN_LICENSE = "apache-2.0"
_WRITE_HINT = "Make a token that may write on the hub's page of tokens; then: hf auth login"
_CHUNK_BYTES = 4 * 2**20
_UNREACHABLE = (OfflineModeIsEnabled, HTTPError, ConnectionError, TimeoutError)


@dataclass(frozen=True)
class Upload:
    """A file as it is to stand in the repository.

    Attributes:
        source: Its content, or the file that holds it.
        checksums: git's sha1 and sha256, either of which the hub may list it by.
    """

    path: str
    source: bytes | Path
    size: int
    checksums: frozenset[str]


@dataclass(frozen=True)
class Choices:
    """What the command line says.

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
    """What a push would do.

    Attributes:
        parent: The commit that the branch stands on; None where repository or branch is new.
        new: Paths that are not there yet.
        replaced: Paths that are there with another content.
        notes: What the user should know before.
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
            return f'PeftModel.from_pretrained(pipe.unet, "{self.repo_id}", subfolder="{PEFT}"{at})'
        return f'pipe.load_lora_weights("{self.repo_id}"{at})'

    @property
    def url(self) -> str:
        """Return the repository's page."""
        return f"{constants.ENDPOINT}/{self.repo_id}"


@dataclass(frozen=True)
class _Account:
    """Who pushes, and what is there; a plan without a login knows neither."""

    name: str | None
    info: Any = None
    branches: Mapping[str, str] | None = None


def plan_push(
    run_dir: RunDir,
    choices: Choices,
    environ: Mapping[str, str],
    *,
    plugins: Plugins,
    needs_login: bool = True,
) -> PushPlan:
    """Return what pushing a run would do; nothing is changed on the hub.

    Args:
        run_dir: Of a finished run.
        choices: What the command line says.
        environ: Its secrets must not be in any file.
        needs_login: Whether a missing login is an error.

    Raises:
        CorruptError: The run holds no sound adapter.
        RefusedError: A file looks as if it held a token, or the repository is public already.
        LobaError: The hub cannot be asked, or does not let this user in.
    """
    recipe = load_recipe(run_dir.recipe, plugins=plugins)
    api = HfApi()
    with explained(choices.repo_id or recipe.name):
        account = _account(api, choices, recipe.name, needs_login=needs_login)
        repo_id = _repo_id(choices.repo_id, recipe.name, account.name)
        if account.name is not None:
            account = _look(api, account, repo_id)
        notes = []
        license_id = choices.license
        if license_id is None:
            license_id = _license_of(api, recipe.base_model.id)
            if license_id is None:
                notes.append("no licence is given; --license names one, such as openrail++")
    if hub_base(recipe.base_model.id) is None and not recipe.base_model.id.startswith(BUILTIN):
        notes.append(
            f"the recipe and the adapter name {clean(recipe.base_model.id)}, a folder of this "
            "machine; others cannot load it"
        )
    _check_visibility(account, repo_id, choices)
    uploads = _collect(run_dir, repo_id, license_id, plugins)
    _refuse_secrets(uploads, environ)
    revision = choices.revision or "main"
    there = _listed(api, repo_id, revision, account)
    return PushPlan(
        repo_id=repo_id,
        is_public=choices.is_public,
        revision=revision,
        exists=account.info is not None,
        parent=(account.branches or {}).get(revision),
        uploads=uploads,
        new=tuple(each.path for each in uploads if each.path not in there),
        replaced=tuple(
            each.path
            for each in uploads
            if each.path in there and there[each.path] not in each.checksums
        ),
        notes=tuple(notes),
    )


def push(plan: PushPlan, message: str) -> str:
    """Carry a plan out in one commit and return its hash.

    Raises:
        InUseError: Somebody else changed the branch since it was planned.
        LobaError: The hub refuses it, or the connection broke; the branch then stands as before.
    """
    api = HfApi()
    operations = [
        CommitOperationAdd(
            each.path, each.source if isinstance(each.source, bytes) else str(each.source)
        )
        for each in plan.changed
    ]
    with explained(plan.repo_id):
        if not plan.exists:
            api.create_repo(plan.repo_id, private=not plan.is_public, exist_ok=True)
            if api.model_info(plan.repo_id).private is plan.is_public:
                raise InUseError(
                    f"{plan.repo_id} came to be since this was planned.", "Look, and push again."
                )
        if plan.revision != "main" and plan.parent is None:
            api.create_branch(plan.repo_id, branch=plan.revision, exist_ok=True)
        commit = api.create_commit(
            plan.repo_id,
            operations,
            commit_message=message,
            revision=plan.revision,
            parent_commit=plan.parent,
        )
    return str(commit.oid)


def default_message(run_dir: RunDir) -> str:
    """Return what a commit is called where the user says nothing."""
    metadata = check_safetensors(run_dir.adapter).get("__metadata__", {})
    step, outcome = metadata.get("loba.step"), metadata.get("loba.effect.outcome")
    facts = [f"step {clean(step)}" if step else "", clean(outcome) if outcome else ""]
    said = ", ".join(filter(None, facts))
    return f"Upload {clean(run_dir.name, limit=80)}" + (f": {said}" if said else "")


def _account(api: HfApi, choices: Choices, name: str, *, needs_login: bool) -> _Account:
    try:
        return _Account(str(api.whoami()["name"]))
    except LocalTokenNotFoundError as error:
        if needs_login:
            raise RecipeError("You are not logged in to the hub.", _WRITE_HINT) from error
        return _Account(None)
    except OfflineModeIsEnabled:
        if needs_login:
            raise
        return _Account(None)


def _repo_id(wanted: str | None, recipe_name: str, user: str | None) -> str:
    name = wanted or re.sub(r"[^A-Za-z0-9._-]+", "-", recipe_name).strip("-._") or "adapter"
    if "/" not in name:
        name = f"{user or 'you'}/{name}"
    validate_repo_id(name)
    return name


def _look(api: HfApi, account: _Account, repo_id: str) -> _Account:
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return account
    branches = {each.name: each.target_commit for each in api.list_repo_refs(repo_id).branches}
    return _Account(account.name, info, branches)


def _listed(api: HfApi, repo_id: str, revision: str, account: _Account) -> dict[str, str]:
    """Return the files of a branch and what each is listed by; a new branch begins as main."""
    branches = account.branches or {}
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
    if base_model.startswith(BUILTIN):
        return _BUILTIN_LICENSE
    if hub_base(base_model) is None:
        return None
    try:
        data = api.model_info(base_model).card_data
    except _UNREACHABLE:  # what the hub answers is among them
        return None
    found = data.get("license") if data is not None else None
    return clean(found, limit=60) if isinstance(found, str) and found != "other" else None


def _check_visibility(account: _Account, repo_id: str, choices: Choices) -> None:
    if account.info is None:
        return
    if not account.info.private and not choices.is_public:
        raise RefusedError(
            f"{repo_id} is there already, and everybody can read it.",
            "Add --public if that is meant, or name another one with --repo.",
        )
    if account.info.private and choices.is_public:
        raise RefusedError(
            f"{repo_id} is there already, and it is private.",
            "Leave --public out; who may see it is changed in its settings on the hub.",
        )


def _collect(
    run_dir: RunDir, repo_id: str, license_id: str | None, plugins: Plugins
) -> tuple[Upload, ...]:
    recipe = load_recipe(run_dir.recipe, plugins=plugins)
    reader = RunReader(run_dir)
    is_peft = os.path.lexists(run_dir.adapter_peft)
    weights = OTHER_WEIGHTS if is_peft else WEIGHTS
    found: dict[str, Path] = {weights: run_dir.adapter}
    if is_peft:
        found |= {f"{PEFT}/{name}": run_dir.adapter_peft / name for name in _PEFT_FILES}
    pictures = run_dir.samples.glob
    strips = sorted(pictures("step-*.png")) or sorted(pictures("*.png"))
    optional = {
        KOHYA: run_dir.adapter_kohya,
        REPORT: run_dir.report,
        PICTURE: run_dir.report_picture,
        **({STRIP: strips[-1]} if strips else {}),
    }
    found |= {name: path for name, path in optional.items() if os.path.lexists(path)}
    if not run_dir.adapter.is_file():
        raise CorruptError(
            f"{clean(run_dir.path)} holds no finished adapter.",
            f"Continue the run first: loba run --resume {clean(run_dir.path)}",
        )
    uploads = [_upload(run_dir, name, path) for name, path in found.items()]
    # Where this user's images lie is nobody else's business.
    uploads.append(_of_bytes(RECIPE, dump_recipe(portable(recipe)).encode()))
    header: dict[str, Any] = {}
    for name, path in found.items():
        if name.endswith(".safetensors"):
            header = header or check_safetensors(path)
            check_safetensors(path)
    metadata = {str(k): str(v) for k, v in header.get("__metadata__", {}).items()}
    facts = CardFacts(
        repo_id=repo_id,
        recipe=recipe,
        metadata=metadata,
        report=reader.report() if REPORT in found else None,
        base_revision=metadata.get("loba.base_model_revision") or recipe.base_model.revision,
        license=license_id,
        peft=PEFT if is_peft else None,
        kohya=KOHYA if KOHYA in found else None,
        strip=STRIP if STRIP in found else None,
        picture=PICTURE if PICTURE in found else None,
    )
    return (_of_bytes(CARD, model_card(facts).encode()), *uploads)


def _upload(run_dir: RunDir, name: str, path: Path) -> Upload:
    """Return a file of the run for upload; a link could lead to anything of this user's."""
    inside = os.path.join(os.path.realpath(run_dir.path), path.relative_to(run_dir.path))
    if os.path.realpath(path) != inside:
        raise RefusedError(
            f"{clean(path)} leads out of its run's folder; it is not uploaded.",
            "A run's files have to be plain files in its own folders.",
        )
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise RefusedError(f"{clean(path)} is not an ordinary file; it is not uploaded.")
            if not name.endswith(".safetensors"):
                return _of_bytes(name, file.read())
            git = hashlib.sha1(f"blob {facts.st_size}\0".encode(), usedforsecurity=False)
            sha256 = hashlib.sha256()
            while chunk := file.read(_CHUNK_BYTES):
                git.update(chunk)
                sha256.update(chunk)
    except OSError as error:
        raise RefusedError(
            f"{clean(path)} cannot be uploaded: {error.strerror or error}.",
            "A run's files have to be plain files that can be read.",
        ) from error
    sums = frozenset({git.hexdigest(), sha256.hexdigest()})
    return Upload(name, path, facts.st_size, sums)


def _of_bytes(name: str, content: bytes) -> Upload:
    git = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False)
    sums = frozenset({git.hexdigest(), hashlib.sha256(content).hexdigest()})
    return Upload(name, content, len(content), sums)


def _refuse_secrets(uploads: tuple[Upload, ...], environ: Mapping[str, str]) -> None:
    """Refuse files that hold a token, without repeating it."""
    own = get_token()
    secrets = [own] if own else []
    redactors = [Redactor.of(environ), Redactor(secrets)]
    for each in uploads:
        if isinstance(each.source, bytes):
            text = each.source.decode("utf-8", "replace")
        else:
            # The weights themselves are numbers; what else a file says stands in its header.
            text = json.dumps(check_safetensors(each.source), ensure_ascii=False)
        if any(redactor.text(text) != text for redactor in redactors):
            raise RefusedError(
                f"{each.path}: holds what looks like an access token; it is not shown here.",
                "Nothing was uploaded. Find where it comes from, and revoke it if it was shared.",
            )


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turn the hub's errors into what the user can do about them."""
    shown = clean(repo_id, limit=120)
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise RecipeError("You are not logged in to the hub.", _WRITE_HINT) from error
    except HFValidationError as error:
        raise RecipeError(
            f"--repo: {shown} is not a repository's name.", "Names are user/name, as on the hub."
        ) from error
    except RevisionNotFoundError as error:
        raise InUseError(f"{shown} changed while it was pushed to.", "Push again.") from error
    except RepositoryNotFoundError as error:
        raise RecipeError(
            f"The hub does not let you write to {shown}.", f"Check the name. {_WRITE_HINT}"
        ) from error
    except HfHubHTTPError as error:
        raise _refusal(shown, error.response.status_code) from error
    except (*_UNREACHABLE, RuntimeError) as error:
        # Uploads run in threads, whose errors come wrapped.
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, HfHubHTTPError):
            raise _refusal(shown, cause.response.status_code) from error
        if isinstance(error, RuntimeError) and not isinstance(cause, _UNREACHABLE):
            raise
        raise ResourceError(
            f"The connection to the hub broke ({type(cause).__name__}).",
            "Push again: what was uploaded whole is not uploaded twice.",
        ) from error


def _refusal(shown: str, status: int) -> Exception:
    if status == 401:
        return RecipeError("The hub does not accept your login.", _WRITE_HINT)
    if status == 403:
        return RecipeError(f"Your login may not write to {shown}.", _WRITE_HINT)
    if status in (409, 412):
        return InUseError(f"{shown} changed while it was pushed to.", "Push again.")
    return ResourceError(f"The hub answered {status} for {shown}.", "Try again later.")
