"""The files that a run gives to the hub, and the page that goes with them.

A run folder may come from anywhere: only plain files of known names are taken from it, and a file
that holds what looks like an access token stops everything.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import get_token

from loba_tui.client.hub.model_card import CardFacts, model_card
from loba_tui.client.runs.resolve import unfinished
from loba_tui.core.adapter_metadata import BASE_REVISION_KEY
from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.errors import RefusedError
from loba_tui.core.file_safety import read_bounded
from loba_tui.core.names import check_revision
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.recipe.data_paths import portable
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.core.recipe.schema import Recipe
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
COMFY = "adapter.comfy.safetensors"
CARD, RECIPE, REPORT, STRIP, PICTURE = (
    "README.md", "recipe.yaml", "report.json", "strip.png", "report.png",
)  # fmt: skip
_CHUNK_BYTES = 4 * 2**20
_MAX_OTHER_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Upload:
    """A file as it is to stand in the repository.

    Attributes:
        source: Its content, or the file that holds it.
        checksums: git's sha1 and sha256, either of which the hub may list it by.
    """

    path: str
    source: bytes | OwnedFile
    size: int
    checksums: frozenset[str]

    def replaces(self, listed: Mapping[str, str]) -> bool:
        """Say whether a file of its name with another content is among the checksums listed."""
        return self.path in listed and listed[self.path] not in self.checksums


def collect(
    run_dir: RunDir, recipe: Recipe, repo_id: str, license_id: str | None
) -> tuple[Upload, ...]:
    """Return what is uploaded of a finished run: its page, its files and its recipe.

    Raises:
        CorruptError: It holds no sound adapter.
        RefusedError: One of its files is no plain file inside its folder.
    """
    run_dir.require_safe()
    if not run_dir.adapter.is_there():
        raise unfinished(run_dir)
    found = _files(run_dir)
    try:
        uploads = [_upload(name, file) for name, file in found.items()]
    except OSError as error:
        raise RefusedError(
            f"{clean(error.filename or run_dir.path)} cannot be uploaded: {error.strerror}.",
            "A run's files have to be plain files that can be read.",
        ) from error
    # Where this user's images lie is nobody else's business.
    uploads.append(_of_bytes(RECIPE, dump_recipe(portable(recipe)).encode()))
    weights = [file for file in found.values() if file.path.suffix == ".safetensors"]
    headers = [check_safetensors(file) for file in weights]
    metadata = {str(k): str(v) for k, v in headers[0].get("__metadata__", {}).items()}
    commit = metadata.get(BASE_REVISION_KEY) or None
    check_revision(commit)
    facts = CardFacts(
        repo_id=repo_id,
        recipe=recipe,
        metadata=metadata,
        report=RunReader(run_dir).report() if REPORT in found else None,
        base_revision=commit or recipe.base_model.revision,
        license=license_id,
        peft=PEFT if OTHER_WEIGHTS in found else None,
        other=next((name for name in (COMFY, KOHYA) if name in found), None),
        strip=STRIP if STRIP in found else None,
        picture=PICTURE if PICTURE in found else None,
    )
    return (_of_bytes(CARD, model_card(facts).encode()), *uploads)


def _files(run_dir: RunDir) -> dict[str, OwnedFile]:
    """Return the files of a run by the names that they get; the adapter is the first."""
    is_peft = run_dir.adapter_dir.holds(PEFT)
    found = {OTHER_WEIGHTS if is_peft else WEIGHTS: run_dir.adapter}
    if is_peft:
        found |= {f"{PEFT}/{name}": run_dir.adapter_peft.file(name) for name in _PEFT_FILES}
    strips = run_dir.strips()
    steps = [strip for strip in strips if strip.name.startswith("step-")] or strips
    optional = {
        KOHYA: run_dir.adapter_kohya,
        COMFY: run_dir.adapter_comfy,
        REPORT: run_dir.report,
        PICTURE: run_dir.report_picture,
        **({STRIP: steps[-1]} if steps else {}),
    }
    return found | {name: file for name, file in optional.items() if file.folder.holds(file.name)}


def _upload(name: str, file: OwnedFile) -> Upload:
    """Return a file of the run for upload."""
    with file.open() as stream:
        if not name.endswith(".safetensors"):
            return _of_bytes(name, read_bounded(stream, _MAX_OTHER_BYTES, file.path))
        size = os.fstat(stream.fileno()).st_size
        git = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        sha256 = hashlib.sha256()
        while chunk := stream.read(_CHUNK_BYTES):
            git.update(chunk)
            sha256.update(chunk)
    return Upload(name, file, size, frozenset({git.hexdigest(), sha256.hexdigest()}))


def _of_bytes(name: str, content: bytes) -> Upload:
    git = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False)
    sums = frozenset({git.hexdigest(), hashlib.sha256(content).hexdigest()})
    return Upload(name, content, len(content), sums)


def refuse_secrets(uploads: Sequence[Upload], environ: Mapping[str, str]) -> None:
    """Refuse files that hold a token, without repeating it."""
    # Where the client finds one that this program's own search does not.
    redactors = [Redactor.of(environ), Redactor(filter(None, [get_token()]))]
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
