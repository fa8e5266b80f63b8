"""`loba replay`: make an adapter again from what it says of itself, and compare."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loba_tui.client.runs.resolve import unfinished
from loba_tui.core.adapter_metadata import (
    INIT_FROM_KEY,
    MERGED_KEY,
    RECIPE_KEY,
    STEERING_KEY,
)
from loba_tui.core.associate.safe_files import header_of
from loba_tui.core.errors import RecipeError, RefusedError
from loba_tui.core.file_sources import Source, path_of, read_source
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.changes import ChangeRecord
from loba_tui.core.run.directory import Ledger, RunDir, adapter_named

_CONFIG_KEYS = ("lora_adapter_metadata", "peft_config")
_MAX_BYTES = 32 * 2**30


@dataclass(frozen=True)
class Adapter:
    """An adapter file: what it says of itself, and the sums of all of it and of its tensors.

    Attributes:
        is_diffusers: Whether it has PEFT's configuration, as the one for diffusers has.
    """

    path: Path
    metadata: Mapping[str, str]
    is_diffusers: bool
    sha256: str
    weights_sha256: str

    @classmethod
    def read(cls, source: Source) -> Adapter:
        """Read a file.

        Raises:
            RecipeError: There is no such file.
            RefusedError: It is not a plain file.
            CorruptError: It is no safetensors file.
        """
        path = path_of(source)
        try:
            content = read_source(source, _MAX_BYTES)
        except FileNotFoundError as error:
            raise RecipeError(
                f"There is no adapter {path}.", "Name a .safetensors file or a run."
            ) from error
        except OSError as error:
            raise RefusedError(f"{path} cannot be used: {error.strerror}.") from error
        header = header_of(content, path)
        metadata = dict(header.get("__metadata__", {}))
        (header_bytes,) = struct.unpack("<Q", content[:8])
        return cls(
            path=path,
            metadata=metadata,
            is_diffusers=any(key in metadata for key in _CONFIG_KEYS),
            sha256=hashlib.sha256(content).hexdigest(),
            weights_sha256=hashlib.sha256(content[8 + header_bytes :]).hexdigest(),
        )


def require_recipe(original: Adapter) -> None:
    """Raise RecipeError where a file does not say how it was made."""
    if MERGED_KEY in original.metadata:
        raise RecipeError(
            f"{original.path} was merged from several adapters.",
            "Replay each of those, and merge them again.",
        )
    if RECIPE_KEY not in original.metadata:
        raise RecipeError(
            f"{original.path} does not say how it was made.",
            "Only adapters that LOBA-Trainer wrote carry their recipe.",
        )


def steering_of(original: Adapter) -> ChangeRecord:
    """Return what was changed while an adapter was trained.

    Raises:
        CorruptError: Its record of that cannot be understood.
    """
    text = original.metadata.get(STEERING_KEY, "")
    return ChangeRecord.from_text(str(text), str(original.path))


def with_initial_adapter(recipe: Recipe, original: Adapter, run: Recipe | None) -> Recipe:
    """Return the recipe with the path of the file that the run began with, if it began with one.

    Args:
        run: The recipe of the user's own run that made the adapter, which knows where the file was.

    Raises:
        RecipeError: The file is not here, or is another one.
    """
    if recipe.adapter.init_from is None:
        return recipe
    wanted = _initial_sha256(original)
    places = [recipe.adapter.init_from, *([run.adapter.init_from or ""] if run is not None else [])]
    told = "is not here"
    for place in filter(None, places):
        path = Path(place).absolute()
        try:
            found = hashlib.sha256(read_source(adapter_named(path), _MAX_BYTES)).hexdigest()
        except (OSError, RecipeError):
            continue
        if not wanted or found == wanted:
            adapter = recipe.adapter.model_copy(update={"init_from": str(path)})
            return recipe.model_copy(update={"adapter": adapter})
        told = f"is another file here, of sha256 {found}"
    raise RecipeError(
        f"{original.path} was made from {Path(recipe.adapter.init_from).name},"
        f" sha256 {wanted or 'unknown'}, which {told}.",
        "Put that file into the current folder, and replay again.",
    )


def _initial_sha256(original: Adapter) -> str:
    try:
        return str(parse_json(original.metadata.get(INIT_FROM_KEY, ""))["sha256"])
    except (ValueError, KeyError, TypeError):
        return ""


def prepare(recipe: Recipe, record: ChangeRecord, parent: Path, ledger: Ledger) -> RunDir:
    """Make a run folder with the recipe and the steering that an adapter was made by."""
    from loba_tui.client.runs.start import make_run

    run_dir = make_run(recipe, parent, ledger)
    if record != ChangeRecord():
        run_dir.changes.replace(record.text().encode() + b"\n")
    return run_dir


def _alpha_is_apart(adapter: Adapter) -> bool:
    """Say whether the weights of a file of diffusers' form have yet to be scaled."""
    try:
        config = parse_json(adapter.metadata.get(_CONFIG_KEYS[0], "{}"))
        return bool(config.get("unet.lora_alpha") != config.get("unet.r"))
    except (ValueError, AttributeError):
        return False


def compare(original: Adapter, run_dir: RunDir) -> tuple[bool, list[str]]:
    """Return whether a replay gave the very same file, and the lines that tell."""
    file = run_dir.adapter if original.is_diffusers else run_dir.adapter_other
    try:
        replayed = Adapter.read(file)
    except RecipeError as error:
        raise unfinished(run_dir) from error
    if replayed.sha256 == original.sha256:
        return True, [f"identical  sha256 {original.sha256}"]
    lines = [f"original   sha256 {original.sha256}", f"replayed   sha256 {replayed.sha256}"]
    has_same_weights = replayed.weights_sha256 == original.weights_sha256
    lines.append("weights    " + ("identical" if has_same_weights else "different"))
    if not has_same_weights and _alpha_is_apart(original) and not _alpha_is_apart(replayed):
        lines.append(
            "note       the original has its strength in metadata, as former versions wrote it, and"
            " the replay in the weights: compare the kohya files, where it never moved"
        )
    keys = original.metadata.keys() | replayed.metadata.keys()
    differing = sorted(k for k in keys if original.metadata.get(k) != replayed.metadata.get(k))
    if differing:
        lines.append(f"metadata   differs in {', '.join(differing)}")
    return False, lines
