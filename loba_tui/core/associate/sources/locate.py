"""Where a model's files lie: built into the package, in a folder or a file, or on the hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from loba_tui.core import names
from loba_tui.core.associate.one_file.header import inspect
from loba_tui.core.associate.pipeline_files import INDEX_NAME, MAX_INDEX_BYTES, UNUSED_COMPONENTS
from loba_tui.core.associate.safe_files import PICKLE_SUFFIXES, refuse_pickle
from loba_tui.core.associate.sources import one_file
from loba_tui.core.associate.sources.hub_snapshot import OnFetch, fetch_file, fetch_snapshot
from loba_tui.core.associate.sources.overrides import (
    AS_IT_IS,
    NO_OVERRIDES,
    Overrides,
    ScheduleChange,
)
from loba_tui.core.errors import CorruptError, RecipeError, RefusedError
from loba_tui.core.file_sources import read_source
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.text import nearest, offer
from loba_tui.core.user_folders import with_home
from loba_tui.models import BUILTIN_PREFIX, builtin_names

logger = logging.getLogger(__name__)

_SETTINGS_NAME = "loba.json"
# Classes of these two libraries are code that is installed; anything else would be fetched code.
_TRUSTED_LIBRARIES = ("diffusers", "transformers")
_OTHER_VAES = (["diffusers", "AutoencoderKLFlux2"], ["diffusers", "AutoencoderKLQwenImage"])
"""The VAEs of some families: another one in their place is of the same class."""


@dataclass(frozen=True)
class ModelSource:
    """A model's files on this machine.

    Attributes:
        folder: A diffusers folder, complete; where there is a file, one with configurations.
        revision: Commit hash on the hub; None for the other kinds.
        file: A checkpoint that holds all weights; None where they lie in the folder.
        vae: The folder or file of another VAE; None is the model's own.
        schedule: How its noise schedule differs from the configuration's.
    """

    id: str
    kind: Literal["builtin", "local", "hub"]
    folder: Path
    revision: str | None = None
    file: Path | None = None
    vae: Path | None = None
    schedule: ScheduleChange = AS_IT_IS

    def settings(self) -> dict[str, Any]:
        """Return what the model's own loba.json asks for, such as {"cpu_threads": 1}."""
        path = self.folder / _SETTINGS_NAME
        try:
            settings = parse_json(path.read_text("utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise CorruptError(
                f"{self.id}: its {_SETTINGS_NAME} cannot be read: {error}."
            ) from error
        if not isinstance(settings, dict):
            raise CorruptError(f"{self.id}: its {_SETTINGS_NAME} is not a table.")
        return settings

    @property
    def resolution(self) -> int | None:
        """The side of the images that the model was made for, where its loba.json has it."""
        pixels = self.settings().get("resolution")
        if pixels is None:
            return None
        if not isinstance(pixels, int) or pixels < 1:
            raise CorruptError(f"{self.id}: resolution in its {_SETTINGS_NAME} is {pixels!r}.")
        return pixels


def locate(
    model_id: str,
    revision: str | None = None,
    variant: str | None = None,
    overrides: Overrides = NO_OVERRIDES,
    *,
    on_fetch: OnFetch = lambda done, total: None,
) -> ModelSource:
    """Find a model's files, fetching them from the hub if that is where they are.

    Args:
        model_id: builtin:NAME, a diffusers folder, a .safetensors checkpoint, a hub id, or
            hub-id:file.safetensors.
        revision: Branch, tag or commit of a hub model; an error for the other kinds.
        variant: Weight variant to fetch, such as fp16.
        overrides: What the model has otherwise than it says itself.
        on_fetch: Told how far the fetching is; from several threads.

    Raises:
        RecipeError: No such model, or it is not a diffusers pipeline.
        RefusedError: It holds pickles or code of its own.
        ResourceError: The hub cannot be reached and the model is not in the cache.
    """
    one_file.find_vae(overrides.vae)  # what is wrong with it is said before gigabytes are fetched
    path = with_home(model_id)
    in_repository = names.file_in_repository(model_id)
    if model_id.startswith(BUILTIN_PREFIX):
        source = _builtin(model_id)
    elif path.is_file():
        source = _one_file(ModelSource(model_id, "local", path.parent), path, overrides)
    elif path.exists():
        source = _local(model_id, path)
    elif in_repository is not None:
        repository, name = in_repository
        file, commit = fetch_file(
            repository, name, revision, hint=_known_models(repository), on_fetch=on_fetch
        )
        source = _one_file(ModelSource(model_id, "hub", file.parent, commit), file, overrides)
    elif _looks_like_a_path(model_id):
        refuse_pickle(path)
        what = "file" if path.suffix.lower() == ".safetensors" else "folder"
        raise RecipeError(f"base_model.id: there is no {what} {model_id}.", _known_models(model_id))
    else:
        folder, commit = fetch_snapshot(
            model_id, revision, variant, hint=_known_models(model_id), on_fetch=on_fetch
        )
        source = ModelSource(model_id, "hub", folder, commit)
    if revision is not None and source.kind != "hub":
        raise RecipeError(
            f"base_model.revision: {model_id} is not a hub model and has no revisions.",
            "Leave revision out.",
        )
    return with_overrides(source, overrides)


def with_overrides(source: ModelSource, overrides: Overrides) -> ModelSource:
    """Return a model with what a recipe sets of it; a one-file model has its configuration already.

    Raises:
        RecipeError: There is no such VAE, or the model has a configuration of its own.
    """
    if source.file is None:
        if overrides.config is not None:
            raise RecipeError(
                f"base_model.config: {source.id} is not one file and has its own configuration.",
                "Leave config out.",
            )
        schedule = ScheduleChange(overrides.prediction_type, overrides.zero_snr)
        source = replace(source, schedule=schedule)
    return replace(source, vae=one_file.find_vae(overrides.vae))


def read_index(source: ModelSource) -> dict[str, Any]:
    """Return a model's model_index.json, checked to name installed classes only.

    Components that nothing uses stand in it as those that a model does not have.
    """
    path = source.folder / INDEX_NAME
    try:
        index = parse_json(read_source(path, MAX_INDEX_BYTES))
        index |= {name: [None, None] for name in UNUSED_COMPONENTS if name in index}
        if source.vae is not None and index.get("vae") not in _OTHER_VAES:
            index["vae"] = ["diffusers", "AutoencoderKL"]
        components = {
            k: v for k, v in index.items() if isinstance(v, list) and not k.startswith("_")
        }
        class_name = index["_class_name"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptError(
            f"{source.id}: its {INDEX_NAME} cannot be read ({type(error).__name__}: {error}).",
            "Fetch or save the model again.",
        ) from error
    for name, value in components.items():
        names.check_component(name)
        library = value[0] if value else None
        if library is not None and library not in _TRUSTED_LIBRARIES:
            raise RefusedError(
                f"{source.id}: component {name} is of {library!r}, code that comes with the model.",
                "Only classes of diffusers and transformers are loaded.",
            )
    if not isinstance(class_name, str):
        raise RefusedError(
            f"{source.id}: its pipeline class is code that comes with the model.",
            "Only pipelines of diffusers are loaded.",
        )
    return index


def without_unused(index: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that tell a pipeline's class to do without what is not there.

    Nothing uses some of it; and of some, such as the T5 of SD 3, a model can do without.
    """
    absent: dict[str, Any] = {name: None for name, value in index.items() if value == [None, None]}
    # Otherwise diffusers warns at every start.
    return absent | ({"requires_safety_checker": False} if "safety_checker" in absent else {})


def _builtin(model_id: str) -> ModelSource:
    name = model_id.removeprefix(BUILTIN_PREFIX)
    if name not in builtin_names():
        raise RecipeError(f"base_model.id: there is no {model_id}.", _known_models(model_id))
    return ModelSource(model_id, "builtin", Path(str(resources.files("loba_tui.models") / name)))


def _one_file(source: ModelSource, path: Path, overrides: Overrides) -> ModelSource:
    """Return the source of a checkpoint, whose header is looked at and whose weights are not."""
    checkpoint = inspect(path, shown=source.id)
    checkpoint.check(needs_vae=overrides.vae is None)
    folder, schedule = one_file.configuration_of(checkpoint, overrides)
    return replace(source, folder=folder, file=path.absolute(), schedule=schedule)


def _local(model_id: str, path: Path) -> ModelSource:
    if not (path / INDEX_NAME).is_file():
        files = sorted(each.name for each in path.glob("*.safetensors"))
        if files:
            raise RecipeError(
                f"base_model.id: {model_id} is not a diffusers folder: it has no {INDEX_NAME}.",
                f"Name the file itself: {Path(model_id) / files[0]}",
            )
        pickles = sorted(p.name for p in path.iterdir() if p.suffix.lower() in PICKLE_SUFFIXES)
        if pickles:
            refuse_pickle(path / pickles[0])
        raise RecipeError(
            f"base_model.id: {model_id} is not a diffusers folder: it has no {INDEX_NAME}.",
            "Name a folder written by save_pretrained.",
        )
    return ModelSource(model_id, "local", path.resolve())


def _looks_like_a_path(model_id: str) -> bool:
    """Tell a mistyped path from a hub id, which is `name` or `owner/name`."""
    suffix = Path(model_id).suffix.lower()
    return (
        model_id.startswith((".", "/", "~"))
        or "\\" in model_id
        or model_id.count("/") > 1
        or suffix in (".safetensors", *PICKLE_SUFFIXES)
    )


def _known_models(model_id: str) -> str:
    known = builtin_names()
    near = nearest(model_id.removeprefix(BUILTIN_PREFIX).rsplit("/", 1)[-1], known)
    if near:
        return offer(BUILTIN_PREFIX + near)
    listed = ", ".join(BUILTIN_PREFIX + name for name in known) or "none in this installation"
    return (
        "Name a diffusers folder, a .safetensors checkpoint, a hub id (owner/name), or a built-in"
        f" model ({listed})."
    )
