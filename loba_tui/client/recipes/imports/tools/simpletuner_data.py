"""SimpleTuner's multidatabackend.json: folders of images, and caches that are left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from loba_tui.client.recipes.imports import images
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.settings import Settings
from loba_tui.client.recipes.imports.sources import ForeignFile, read_if_there
from loba_tui.core.errors import RecipeError

_BACKEND_REASONS = {
    "id": "sources have no names",
    "type": "folders of this machine are read",
    "crop_style": "crops are in the middle, or random",
    "crop_aspect": "buckets keep images' shape; data.buckets.enabled: false makes squares",
    "minimum_image_size": "images that are too small are enlarged",
    "maximum_image_size": "images are scaled to their bucket",
    "target_downsample_size": "images are scaled to their bucket",
    "cache_dir_vae": "latents are kept by data.cache",
    "metadata_backend": "images are looked at once, before training",
    "probability": "repeats is how often images come",
}


def is_backends(file: ForeignFile) -> bool:
    """Say whether a file is multidatabackend.json."""
    marks = {"instance_data_dir", "dataset_type", "cache_dir_vae", "caption_strategy"}
    return bool(file.entries) and any(marks & set(each) for each in file.entries)


def put_resolution(part: Settings, draft: Draft, key: str, kind_key: str) -> None:
    """Put a resolution in pixels; as an area it is in megapixels, and an edge is another size."""
    value, kind = part.number(key), part.text(kind_key) or "pixel_area"
    if value is None:
        return
    origin = part.origin(key)
    if kind == "area":
        pixels = max(64, round(math.sqrt(value * 1_000_000) / 64) * 64)
        draft.put("train.resolution", pixels, origin, f"from {value:g} megapixel")
        return
    draft.put("train.resolution", int(value), origin)
    if kind == "pixel":
        draft.note(
            "train.resolution",
            "theirs is the shorter edge; here it is the side of a square of the same area",
        )


def read_backends(
    settings: Settings, draft: Draft, files: Sequence[ForeignFile], config: ForeignFile
) -> int | None:
    """Put a source for each folder of images, and return the samples of an epoch."""
    draft.put("method.name", "lora_finetune")
    wanted = settings.text("data_backend_config")
    file = next((each for each in files if is_backends(each)), None)
    file = file or (read_if_there(wanted, config.path, draft) if wanted else None)
    if file is None or not is_backends(file):
        raise RecipeError(
            f"data_backend_config: {wanted or 'nothing'} is not here.",
            "Name it too: loba recipe import config.json multidatabackend.json",
        )
    counts: list[int | None] = []
    for index, values in enumerate(file.entries):
        backend = Settings(values, draft, f"backends.{index}.")
        kind = backend.text("dataset_type") or "image"
        if kind != "image":
            draft.left(f"backends.{index}", kind, "prompts are encoded once, and kept by the run")
            continue
        if backend.flag("disabled", "disable"):
            draft.left(f"backends.{index}", backend.text("id"), "it is switched off")
            continue
        if (backend.text("type") or "local") != "local":
            draft.left(*backend.origin("type"), "folders of this machine are read")
            continue
        counts.append(_read_backend(backend, draft, file))
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _read_backend(backend: Settings, draft: Draft, file: ForeignFile) -> int | None:
    path = backend.text("instance_data_dir") or ""
    if not path:
        return 0
    source: dict[str, Any] = {"path": path}
    # There, repeats are those beyond the first time.
    again = backend.whole("repeats")
    if again and again > 0:
        source["repeats"] = again + 1
        draft.note(
            "data.sources", "repeats counts all times an image comes; theirs those after the first"
        )
    if backend.flag("is_regularisation_data", "is_regularization_data"):
        source["prior"] = True
    strategy = backend.text("caption_strategy") or "textfile"
    words = backend.text("instance_prompt")
    if strategy == "instanceprompt" or backend.flag("only_instance_prompt"):
        source["caption"] = words or ""
    elif words and backend.flag("prepend_instance_prompt"):
        draft.put("data.captions.trigger", words.strip(), backend.origin("instance_prompt"))
    elif words:
        draft.left(*backend.origin("instance_prompt"), "the caption strategy makes no use of it")
    if strategy in ("filename", "parquet", "csv", "huggingface"):
        reason = "captions are files beside the images, or a metadata.jsonl or parquet with them"
        draft.left(*backend.origin("caption_strategy"), reason)
    draft.add("data.sources", source, backend.origin("instance_data_dir"))
    if backend.flag("crop") and backend.text("crop_style") == "random":
        draft.put("data.crop", "random", backend.origin("crop_style"))
        draft.put("data.cache", "none", None, "random crops cannot be kept")
    if backend.flag("crop") and backend.text("crop_aspect") == "square":
        draft.put("data.buckets.enabled", False, backend.origin("crop_aspect"))
    if "train.resolution" not in draft.values:
        put_resolution(backend, draft, "resolution", "resolution_type")
    else:
        backend.leave(["resolution", "resolution_type"], "one resolution a run: the first one's")
    backend.leave_rest(_BACKEND_REASONS)
    count = images.count_images(images.resolved(path, file.path), nested=True)
    return None if count is None else count * source.get("repeats", 1)
