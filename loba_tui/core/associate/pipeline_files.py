"""Which files of a repository make a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from loba_tui.core import names
from loba_tui.core.associate.safe_files import refuse_pickle
from loba_tui.core.errors import CorruptError, RefusedError
from loba_tui.core.file_sources import read_source
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.text import clean

INDEX_NAME = "model_index.json"
UNUSED_COMPONENTS = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of pipelines that neither training nor drawing needs: not fetched, and not loaded.

The safety checker of SD 1.x alone has 1.2 GB, and blacks out what it takes for unfit: a proof could
not be read off such pictures.
"""
MAX_INDEX_BYTES = 1024 * 1024
MAX_SHARDS_BYTES = 64 * 1024 * 1024
# Newer tokenizers have their chat template in a file of its own, in Jinja's language.
_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja")


def select_files(
    model_id: str, files: Sequence[str], components: Sequence[str], variant: str | None
) -> list[str]:
    """Return the files of a repository that a pipeline of these components needs.

    Repositories hold the same weights several times over (single file, fp16, flax, ONNX): fetching
    all of SD-XL's takes 70 GB where one set is 7.

    Raises:
        RefusedError: A component has its weights as pickles only.
    """
    wanted = [INDEX_NAME, *(name for name in files if name == "loba.json")]
    for component in components:
        inside = [name for name in files if PurePosixPath(name).parent.as_posix() == component]
        wanted += [n for n in inside if n.endswith(_TEXT_SUFFIXES) and "safetensors.index" not in n]
        weights = [n for n in inside if n.endswith((".safetensors", ".safetensors.index.json"))]
        of_variant = [n for n in weights if variant and f".{variant}" in PurePosixPath(n).name]
        plain = [n for n in weights if _is_plain(PurePosixPath(n).name)]
        wanted += of_variant or plain
        if not weights:
            for name in inside:
                refuse_pickle(Path(f"{model_id}/{name}"))
    return list(dict.fromkeys(wanted))


def component_names(index_path: str) -> list[str]:
    """Return the folders that a model_index.json says the pipeline consists of, unused ones not.

    Raises:
        RefusedError: A component is called by what leads to another folder.
        CorruptError: The file is no table.
    """
    try:
        index = parse_json(read_source(Path(index_path), MAX_INDEX_BYTES))
        used = {name: value for name, value in index.items() if name not in UNUSED_COMPONENTS}
    except (OSError, ValueError, AttributeError) as error:
        raise CorruptError(
            f"{INDEX_NAME} cannot be read ({type(error).__name__}).", "Fetch the model again."
        ) from error
    return used_names(used)


def used_names(index: Mapping[str, Any]) -> list[str]:
    """Return the components that an index gives a class to, each the name of a folder.

    Raises:
        RefusedError: One is called by what leads to another folder.
    """
    found = [
        name for name, value in index.items() if isinstance(value, list) and value and value[0]
    ]
    for name in found:
        names.check_component(name)
    return found


def check_shards(folder: Path) -> None:
    """Check that the shards which a component's index lists are files beside it.

    Raises:
        RefusedError: One is a pickle, or lies in another folder.
        CorruptError: An index cannot be read.
    """
    for path in sorted(folder.glob("*.index*.json")):
        try:
            listed = parse_json(read_source(path, MAX_SHARDS_BYTES))["weight_map"]
            shards = {str(shard) for shard in listed.values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError(
                f"{clean(path.name)} cannot be read ({type(error).__name__}).",
                "Fetch or save the model again.",
            ) from error
        for shard in shards:
            names.check_path(shard)
            if "/" in shard:
                raise RefusedError(f"{clean(path.name)}: {clean(shard)} lies in another folder.")
            # Of another format's weights, which are not loaded, an index may be there as well.
            if ".safetensors.index." in path.name and not shard.endswith(".safetensors"):
                refuse_pickle(Path(shard))
                raise RefusedError(f"{clean(path.name)}: {clean(shard)} is no safetensors file.")


def _is_plain(name: str) -> bool:
    """Whether a weight file is of no variant, as model-00001-of-00002.safetensors."""
    return "." not in name.removesuffix(".index.json").removesuffix(".safetensors")
