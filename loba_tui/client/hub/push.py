"""`loba push`: carry a plan out, in one commit."""

from __future__ import annotations

from contextlib import ExitStack

from huggingface_hub import CommitOperationAdd

from loba_tui.client.hub.errors import explained
from loba_tui.client.hub.push_plan import PushPlan
from loba_tui.client.hub.uploads import Upload
from loba_tui.core.adapter_metadata import EFFECT_PREFIX, STEP_KEY
from loba_tui.core.associate.caches.transfer.hub_client import hub_api
from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.errors import InUseError
from loba_tui.core.names import check_repository, check_revision
from loba_tui.core.run.directory import RunDir
from loba_tui.core.text import clean


def push(plan: PushPlan, message: str) -> str:
    """Carry a plan out in one commit and return its hash.

    Raises:
        InUseError: Somebody else changed the branch since it was planned.
        LobaError: The hub refuses it, or the connection broke; the branch then stands as before.
    """
    check_repository(plan.repo_id)
    check_revision(plan.revision)
    api = hub_api()
    with ExitStack() as opened, explained(plan.repo_id):
        operations = [_operation(each, opened) for each in plan.changed]
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


def _operation(upload: Upload, opened: ExitStack) -> CommitOperationAdd:
    """Return the part of a commit that adds a file, which is held open until it is carried out."""
    if isinstance(upload.source, bytes):
        return CommitOperationAdd(upload.path, upload.source)
    operation = CommitOperationAdd(upload.path, opened.enter_context(upload.source.open()))
    if operation.upload_info.sha256.hex() not in upload.checksums:
        raise InUseError(
            f"{clean(upload.source)} was changed since the push was planned.", "Push again."
        )
    return operation


def default_message(run_dir: RunDir) -> str:
    """Return what a commit is called where the user says nothing."""
    metadata = check_safetensors(run_dir.adapter).get("__metadata__", {})
    step, outcome = metadata.get(STEP_KEY), metadata.get(f"{EFFECT_PREFIX}outcome")
    facts = [f"step {clean(step)}" if step else "", clean(outcome) if outcome else ""]
    said = ", ".join(filter(None, facts))
    return f"Upload {clean(run_dir.name, limit=80)}" + (f": {said}" if said else "")
