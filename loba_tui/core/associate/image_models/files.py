"""Files of the models that read images: where they lie, and what of a repository is fetched.

A hub model is named with its commit, so that what the cache has is taken without asking the hub.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from loba_tui.core import names
from loba_tui.core.associate.safe_files import PICKLE_SUFFIXES, check_safetensors, refuse_pickle
from loba_tui.core.associate.sources.hub_files import fetch_named, named_in_cache
from loba_tui.core.associate.sources.hub_snapshot import OnFetch
from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.file_sources import read_source
from loba_tui.core.foreign_json import parse_object
from loba_tui.core.recipe.measure_models import MeasureModel
from loba_tui.core.text import clean
from loba_tui.core.user_folders import with_home
from loba_tui.models import BUILTIN_PREFIX

logger = logging.getLogger(__name__)

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Either of these makes a CLIP tokenizer."""
_ALSO = ("tokenizer_config.json", "special_tokens_map.json")
_NEEDED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "clip": (CONFIG, PROCESSOR, WEIGHTS),
        "dino": (CONFIG, PROCESSOR, WEIGHTS),
        "lpips": (WEIGHTS,),
    }
)
_MODEL_TYPES: Mapping[str, str] = MappingProxyType({"clip": "clip", "dino": "dinov2"})
_MAX_CONFIG_BYTES = 1024 * 1024
# Numbers of float32 parameters, as the published configurations have them.
_PARAMETERS: Mapping[str, int] = MappingProxyType(
    {
        "openai/clip-vit-large-patch14": 427_616_513,
        "openai/clip-vit-base-patch32": 151_277_313,
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": 986_109_441,
        "facebook/dinov2-small": 22_056_576,
        "facebook/dinov2-base": 86_580_480,
        "facebook/dinov2-large": 304_368_640,
        "timm/vgg16.tv_in1k": 138_357_544,
    }
)


@dataclass(frozen=True)
class Download:
    """Part of a model that is still to be fetched; `num_bytes` is None where that is not known."""

    model: MeasureModel
    num_bytes: int | None


def find_files(model: MeasureModel, on_fetch: OnFetch = lambda done, total: None) -> Path:
    """Return the folder of a model's files, fetching them from the hub if they are not here.

    Raises:
        RecipeError: There is no such folder, or it lacks files.
        RefusedError: The weights are pickles only.
        ResourceError: The hub cannot be reached and the model is not in the cache.
    """
    folder = _here(model)
    if folder is None:
        wanted = [*_NEEDED[model.kind], *_ALSO, *(name for each in TOKENIZERS for name in each)]
        if model.kind != "clip":
            wanted = list(_NEEDED[model.kind])
        folder = fetch_named(
            model.id, str(model.revision), wanted, section=f"{model.key}.", on_fetch=on_fetch
        )
    if missing := _missing(model.kind, folder):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICKLE_SUFFIXES)
        if WEIGHTS in missing and pickles:
            refuse_pickle(folder / pickles[0])
        raise RecipeError(
            f"{model.key}.model: {clean(model.id)} has no {' and no '.join(missing)}.",
            f"A {model.kind} model is a folder with {', '.join(_NEEDED[model.kind])}"
            + (", and a tokenizer." if model.kind == "clip" else "."),
        )
    _check_kind(model, folder)
    check_safetensors(folder / WEIGHTS)
    return folder


def to_download(model: MeasureModel) -> Download | None:
    """Return what a model takes from the hub; None where all of it is on this machine."""
    if _here(model) is not None:
        return None
    count = _PARAMETERS.get(model.id)
    return Download(model, None if count is None else 4 * count)


def most_bytes(models: Iterable[MeasureModel]) -> int:
    """Return about what the largest takes in memory, where one at a time is loaded."""
    return max(map(_weight_bytes, models), default=0)


def _weight_bytes(model: MeasureModel) -> int:
    """Return about what a model takes in memory; 0 where that is not known."""
    folder = _here(model)
    if folder is not None and (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS).stat().st_size
    return 4 * _PARAMETERS.get(model.id, 0)


def _here(model: MeasureModel) -> Path | None:
    """Return the folder of a model that need not be fetched."""
    if model.id.startswith(BUILTIN_PREFIX):
        name = model.id.removeprefix(BUILTIN_PREFIX)
        return Path(str(resources.files("loba_tui.models") / name))
    path = with_home(model.id)
    if path.is_dir():
        return path
    if not model.is_on_hub:
        raise RecipeError(
            f"{model.key}.model: there is no folder {clean(model.id)}.",
            "Name a folder written by save_pretrained, or a hub id with its revision.",
        )
    names.check_repository(model.id)
    found = named_in_cache(model.id, str(model.revision), _NEEDED[model.kind])
    return found if found is not None and not _missing(model.kind, found) else None


def _check_kind(model: MeasureModel, folder: Path) -> None:
    """Refuse a model of another architecture, which transformers would load all the same.

    Raises:
        RecipeError: It is one.
        CorruptError: Its configuration cannot be read.
    """
    wanted = _MODEL_TYPES.get(model.kind)
    if wanted is None:
        return
    try:
        found = parse_object(read_source(folder / CONFIG, _MAX_CONFIG_BYTES)).get("model_type")
    except (OSError, ValueError) as error:
        raise CorruptError(
            f"{clean(model.id)}: its {CONFIG} cannot be read ({error}).",
            "Fetch or save the model again.",
        ) from error
    if found != wanted:
        raise RecipeError(
            f"{model.key}.model: {clean(model.id)} is of the type {clean(found)}, not {wanted}.",
            f"Name a {wanted} model.",
        )


def _missing(kind: str, folder: Path) -> list[str]:
    missing = [name for name in _NEEDED[kind] if not (folder / name).is_file()]
    if kind == "clip" and not any(
        all((folder / name).is_file() for name in each) for each in TOKENIZERS
    ):
        missing.append(TOKENIZERS[0][0])
    return missing
