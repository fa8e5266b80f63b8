"""ai-toolkit's data sets: folders of images, each with settings of its own."""

from __future__ import annotations

from typing import Any

from loba_tui.client.recipes.imports import common, images
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.settings import Settings
from loba_tui.client.recipes.imports.sources import ForeignFile
from loba_tui.core.text import counted

_DATA_REASONS = {
    "buckets": "images go into buckets by their shape: data.buckets",
    "flip_y": "images are mirrored left to right only",
    "loss_multiplier": "sources weigh the same; repeats is how often their images come",
    "augments": "there are no augmentations but flip and crop: random",
    "type": "folders of images are read",
}


def read_data(process: Settings, draft: Draft, file: ForeignFile) -> None:
    """Put a source for each data set, and what all of them share."""
    draft.put("method.name", "lora_finetune")
    shared: dict[str, list[Any]] = {}
    for dataset in process.parts("datasets"):
        path = dataset.text("folder_path", "dataset_path")
        if not path:
            continue
        source: dict[str, Any] = {"path": path}
        repeats = dataset.whole("num_repeats")
        if repeats not in (None, 1):
            source["repeats"] = repeats
        if dataset.flag("is_reg", "prior_reg"):
            source["prior"] = True
        masks = dataset.text("mask_path")
        if masks:
            source["masks"] = masks
        draft.add("data.sources", source, dataset.origin("folder_path", "dataset_path"))
        _put_dataset(dataset, draft, shared)
        dataset.leave_rest(_DATA_REASONS)
        _tell_count(draft, path, file)
    _put_shared(draft, shared)
    if "sample.prompts" not in draft.values:
        note = "a prompt to draw is needed, and theirs has none: write your own"
        trigger = draft.values.get("data.captions.trigger")
        draft.put("sample.prompts", [trigger or "a photo"], None, note)


def _tell_count(draft: Draft, path: str, file: ForeignFile) -> None:
    count = images.count_images(images.resolved(path, file.path))
    if count is not None:
        draft.note("data.sources", f"{path} has {counted(count, 'image')}")


def _put_dataset(dataset: Settings, draft: Draft, shared: dict[str, list[Any]]) -> None:
    """Collect what is said for each data set, and is one for all sources here."""
    extension = dataset.text("caption_ext", "caption_type")
    values = {
        "data.captions.extension": extension and f".{extension.lstrip('.')}",
        "data.captions.missing": dataset.text("default_caption"),
        "data.captions.dropout": dataset.number("caption_dropout_rate"),
        "data.captions.drop_tags": dataset.number("token_dropout_rate"),
        "data.captions.shuffle": dataset.flag("shuffle_tokens"),
        "data.captions.keep": dataset.whole("keep_tokens"),
        "data.captions.trigger": dataset.text("trigger_word"),
        "data.flip": dataset.flag("flip_x"),
        "data.mask.invert": dataset.flag("invert_mask"),
        "data.mask.floor": dataset.number("mask_min_value"),
        "data.crop": "random" if dataset.flag("random_crop") else None,
        "data.cache": _cache(dataset),
        "train.resolution": dataset.raw("resolution"),
    }
    for key, value in values.items():
        if value is not None:
            shared.setdefault(key, []).append(value)


def _cache(dataset: Settings) -> str | None:
    on_disk = dataset.flag("cache_latents_to_disk")
    in_memory = dataset.flag("cache_latents")
    return "disk" if on_disk else "memory" if in_memory else None


def _put_shared(draft: Draft, shared: dict[str, list[Any]]) -> None:
    for key, values in shared.items():
        origin = (f"datasets: {key.rsplit('.', 1)[-1]}", values[0])
        if key == "train.resolution":
            sizes = values[0] if isinstance(values[0], list) else [values[0]]
            size = sizes[-1] if sizes else None
            common.put_resolution(draft, size, origin)
            if len(sizes) > 1:
                draft.left(origin[0], sizes[:-1], "one resolution a run: the last, the largest")
        else:
            draft.put(key, values[0], origin)
        for other in values[1:]:
            if other != values[0]:
                draft.left(origin[0], other, "one for all sources here: the first one's")
    if draft.values.get("data.crop") == "random":
        draft.put("data.cache", "none", None, "random crops cannot be kept")
