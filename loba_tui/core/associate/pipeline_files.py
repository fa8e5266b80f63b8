"""Which files of a repository make a diffusers pipeline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from loba_tui.core.associate.safe_files import refuse_pickle

INDEX_NAME = "model_index.json"
UNUSED_COMPONENTS = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of pipelines that neither training nor drawing needs: not fetched, and not loaded.

The safety checker of SD 1.x alone has 1.2 GB, and blacks out what it takes for unfit: a proof could
not be read off such pictures.
"""
_TEXT_SUFFIXES = (".json", ".txt", ".model")


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
    """Return the folders that a model_index.json says the pipeline consists of, unused ones not."""
    index = json.loads(Path(index_path).read_text("utf-8"))
    used = {name: value for name, value in index.items() if name not in UNUSED_COMPONENTS}
    return [name for name, value in used.items() if isinstance(value, list) and value and value[0]]


def _is_plain(name: str) -> bool:
    """Whether a weight file is of no variant, as model-00001-of-00002.safetensors."""
    return "." not in name.removesuffix(".index.json").removesuffix(".safetensors")
