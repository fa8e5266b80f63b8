"""kohya's data sets: `datasets.subsets` of a file, `10_name` folders, and lists of captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loba_tui.client.recipes.imports import common, images
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.settings import Settings
from loba_tui.client.recipes.imports.sources import ForeignFile, read_if_there
from loba_tui.core.errors import RecipeError
from loba_tui.core.text import clean, counted

_MUSUBI = "image_directory"
"""A folder of images of musubi-tuner, whose data sets have no subsets."""
_CAPTIONS = frozenset(["caption", "tags"])
_LIST_REASON = (
    "captions are files beside the images here, or metadata.jsonl with file_name and text in their"
    " folder"
)
_REASONS = {
    "cache_directory": "latents are kept by data.cache",
    "min_bucket_reso": "buckets have about the area of train.resolution",
    "max_bucket_reso": "data.buckets.most_aspect says how long a side may be",
    "color_aug": "there are no augmentations but flip and crop: random",
    "face_crop_aug_range": "there are no augmentations but flip and crop: random",
    "cache_info": "images are looked at once, before training",
    "caption_suffix": "words are put before captions (trigger), not behind them",
    "caption_dropout_every_n_epochs": "captions.dropout is a share of all samples",
    "token_warmup_step": "captions are whole from the first step on",
    "token_warmup_min": "captions are whole from the first step on",
    "keep_tokens_separator": "captions.keep counts tags",
    "secondary_separator": "captions.separator is one",
    "resize_interpolation": "images are resized in one way here",
}


def is_data_set(file: ForeignFile) -> bool:
    """Say whether a file is what `--dataset_config` names."""
    listed = file.mapping.get("datasets")
    return isinstance(listed, list) and any(
        isinstance(each, dict) and (isinstance(each.get("subsets"), list) or _MUSUBI in each)
        for each in listed
    )


def is_caption_list(file: ForeignFile) -> bool:
    """Say whether a file has captions by image, as `meta_cap.json` has."""
    values = list(file.mapping.values()) if file.format == "json" else []
    return bool(values) and all(isinstance(v, dict) and _CAPTIONS & set(v) for v in values[:50])


def words_of(draft: Draft) -> str:
    """Return what is on the images, where a data set says it."""
    for key in ("data.captions.missing", "data.captions.trigger"):
        words = draft.values.get(key)
        if words:
            return str(words)
    return ""


def read_data(
    settings: Settings, draft: Draft, files: Sequence[ForeignFile], config: ForeignFile | None
) -> int | None:
    """Put the images, and return how many samples an epoch has; None where they are not here."""
    draft.put("method.name", "lora_finetune")
    counts: list[int | None] = []
    data_set = _data_set(settings, draft, files, config)
    if data_set is not None:
        counts = list(_read_subsets(data_set, draft))
        settings.leave(["train_data_dir", "reg_data_dir", "in_json"], "dataset_config counts")
    else:
        for key in ("train_data_dir", "reg_data_dir"):
            counts += _read_folders(settings, draft, config, key)
        for file in files:
            if file.format == "folder" and file.path is not None:
                counts += _read_folder(str(file.path), draft, None, prior=False)
    _read_captions(settings, draft)
    _read_lists(settings, draft, files)
    if not draft.values.get("data.sources"):
        raise RecipeError(
            "These settings of kohya sd-scripts name no images.",
            "Name the data set's file too: loba recipe import config.toml dataset.toml,"
            " or add -- --train_data_dir FOLDER",
        )
    learned = [count for count in counts if count is not None]
    return sum(learned) if len(learned) == len(counts) else None


def _data_set(
    settings: Settings, draft: Draft, files: Sequence[ForeignFile], config: ForeignFile | None
) -> ForeignFile | None:
    given = next((file for file in files if is_data_set(file)), None)
    # LoRA_Easy_Training_Scripts keeps them in the same file as everything else.
    own = settings.raw("subsets")
    if given is None and isinstance(own, list) and config is not None:
        listed = {"datasets": [{"subsets": own}]}
        given = ForeignFile(config.name, config.path, "toml", listed)
    wanted = settings.text("dataset_config")
    if given is None and wanted:
        given = read_if_there(wanted, config.path if config is not None else None, draft)
        if given is None or not is_data_set(given):
            draft.left("dataset_config", wanted, "not here to read: name it too")
            return None
    return given


def _read_subsets(file: ForeignFile, draft: Draft) -> Iterator[int | None]:
    """Put a source for each subset; yield how many samples it has in an epoch."""
    root = Settings(file.mapping, draft)
    general = file.mapping.get("general")
    general = general if isinstance(general, dict) else {}
    root.raw("general")
    is_first = True
    for data_set in root.parts("datasets"):
        own = {key: data_set.origin(key)[1] for key in data_set.keys() if key != "subsets"}  # noqa: SIM118  it is no mapping
        for key in own:
            data_set.raw(key)
        if _MUSUBI in own:
            whole = {**general, **own, "image_dir": own.pop(_MUSUBI)}
            whole.pop(_MUSUBI)
            merged = Settings(whole, draft, data_set.named(""))
            yield from _read_subset(merged, draft, file, is_first=is_first)
            is_first = False
        for subset in data_set.parts("subsets"):
            subset_values = {key: subset.raw(key) for key in subset.keys()}  # noqa: SIM118  it is no mapping
            values = {**general, **own, **_present(subset_values)}
            merged = Settings(values, draft, subset.named(""))
            yield from _read_subset(merged, draft, file, is_first=is_first)
            is_first = False
    root.leave_rest()


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _read_subset(
    subset: Settings, draft: Draft, file: ForeignFile, *, is_first: bool
) -> Iterator[int | None]:
    path, metadata = subset.text("image_dir"), subset.text("metadata_file")
    if metadata:
        draft.left(*subset.origin("metadata_file"), _LIST_REASON)
    if path:
        source: dict[str, Any] = {"path": path}
        repeats = subset.whole("num_repeats")
        if repeats not in (None, 1):
            source["repeats"] = repeats
        is_prior = subset.flag("is_reg")
        if is_prior:
            source["prior"] = True
        masks = subset.text("conditioning_data_dir")
        if masks:
            source["masks"] = masks
        draft.add("data.sources", source, subset.origin("image_dir"))
        words = subset.text("class_tokens")
        if words and is_first:
            draft.put(
                "data.captions.missing",
                words,
                subset.origin("class_tokens"),
                "their class_tokens: the caption of images that have none",
            )
        elif words and words != draft.values.get("data.captions.missing"):
            draft.left(
                *subset.origin("class_tokens"),
                "caption: TEXT in a source replaces all of its captions",
            )
        count = images.count_images(images.resolved(path, file.path))
        if not is_prior:
            yield None if count is None else count * (repeats or 1)
    _put_once(subset, draft)
    subset.leave_rest(_REASONS)


def _put_once(subset: Settings, draft: Draft) -> None:
    """Put what a subset says and is one for all sources here."""
    resolution = subset.raw("resolution")
    if resolution is not None and "train.resolution" not in draft.values:
        common.put_resolution(draft, resolution, subset.origin("resolution"))
    elif resolution is not None:
        _put_same(draft, "train.resolution", _square(resolution), subset.origin("resolution"))
    batch = subset.whole("batch_size")
    if batch is not None and batch > 0:
        draft.put("train.batch_size", batch, subset.origin("batch_size"))
        draft.notes.pop("train.batch_size", None)
    _read_captions(subset, draft)


def _square(resolution: Any) -> int | None:
    alone = Draft("")
    common.put_resolution(alone, resolution, ("", None))
    side = alone.values.get("train.resolution")
    return side if isinstance(side, int) else None


def _put_same(draft: Draft, key: str, value: Any, origin: tuple[str, Any]) -> None:
    """Put a value that all sources share; another one than the first is told of."""
    if value is None:
        return
    if key in draft.values and draft.values[key] != value:
        draft.left(*origin, f"{key} is one for all sources: the first one's")
    elif key not in draft.values:
        draft.put(key, value, origin)


def _read_captions(part: Settings, draft: Draft) -> None:
    """Put what captions, buckets and crops are like, from flags or from a subset."""
    extension = part.text("caption_extension", "caption_extention")
    prefix = part.text("caption_prefix")
    shared = {
        "data.captions.extension": (
            extension and f".{extension.lstrip('.')}", ("caption_extension", "caption_extention")
        ),
        "data.captions.shuffle": (part.flag("shuffle_caption") or None, ("shuffle_caption",)),
        "data.captions.keep": (part.whole("keep_tokens") or None, ("keep_tokens",)),
        "data.captions.dropout": (
            part.number("caption_dropout_rate") or None, ("caption_dropout_rate",)
        ),
        "data.captions.drop_tags": (
            part.number("caption_tag_dropout_rate") or None, ("caption_tag_dropout_rate",)
        ),
        "data.captions.trigger": (
            prefix.strip().rstrip(",") or None if prefix else None, ("caption_prefix",)
        ),
        "data.captions.separator": (part.text("caption_separator"), ("caption_separator",)),
        "data.captions.wildcards": (part.flag("enable_wildcard") or None, ("enable_wildcard",)),
        "data.flip": (part.flag("flip_aug") or None, ("flip_aug",)),
        "data.buckets.enabled": (part.flag("enable_bucket"), ("enable_bucket",)),
        "data.buckets.step": (part.whole("bucket_reso_steps"), ("bucket_reso_steps",)),
        "data.cache": (_cache(part), ("cache_latents_to_disk", "cache_latents")),
        "data.prior_weight": (part.number("prior_loss_weight"), ("prior_loss_weight",)),
    }  # fmt: skip
    for key, (value, names) in shared.items():
        _put_same(draft, key, value, part.origin(*names))
    if part.flag("random_crop"):
        _put_same(draft, "data.crop", "random", part.origin("random_crop"))
        draft.put("data.cache", "none", None, "random crops cannot be kept")
    if part.flag("bucket_no_upscale"):
        reason = "images that are too small are enlarged; buckets.enlarge: false refuses them"
        draft.left(*part.origin("bucket_no_upscale"), reason)
    for key, why in _REASONS.items():
        part.leave([key], why)


def _cache(part: Settings) -> str | None:
    on_disk, in_memory = part.flag("cache_latents_to_disk"), part.flag("cache_latents")
    return "disk" if on_disk else "memory" if in_memory else None


def _read_folders(
    settings: Settings, draft: Draft, config: ForeignFile | None, key: str
) -> list[int | None]:
    path = settings.text(key)
    if not path:
        return []
    masks = settings.text("conditioning_data_dir") if key == "train_data_dir" else None
    if masks:
        draft.left("conditioning_data_dir", masks, "masks are masks: FOLDER in each source")
    return _read_folder(path, draft, config, prior=key == "reg_data_dir", key=key)


def _read_folder(
    path: str, draft: Draft, config: ForeignFile | None, *, prior: bool, key: str = "folder"
) -> list[int | None]:
    """Put the `10_name` folders in a folder; the folder itself where they are not here to see."""
    beside = config.path if config is not None else None
    found = images.repeated_folders(path, beside)
    counts: list[int | None] = []
    for folder in found:
        source: dict[str, Any] = {"path": folder.path}
        source |= {"repeats": folder.repeats} if folder.repeats > 1 else {}
        source |= {"prior": True} if prior else {}
        draft.add("data.sources", source, (key, path))
        count = images.count_images(images.resolved(folder.path, beside))
        if not prior:
            counts.append(None if count is None else count * folder.repeats)
            if "data.captions.missing" not in draft.values:
                note = f"from the name of the folder {clean(folder.path.rsplit('/', 1)[-1])}"
                draft.put("data.captions.missing", folder.words, None, note)
    if not found:
        draft.add("data.sources", {"path": path, **({"prior": True} if prior else {})}, (key, path))
        draft.note(
            "data.sources",
            f"{clean(path)} is not here to look into: of folders 10_name in it, write each as a"
            " source of its own, with repeats: 10.",
        )
        counts += [] if prior else [None]
    return counts


def _read_lists(settings: Settings, draft: Draft, files: Sequence[ForeignFile]) -> None:
    """Tell of captions that are in one JSON file, and put the folder where their images lie."""
    named = settings.text("in_json")
    if named:
        draft.left("in_json", named, _LIST_REASON)
    for file in files:
        if not is_caption_list(file):
            continue
        draft.left(file.name, f"captions of {counted(len(file.mapping), 'image')}", _LIST_REASON)
        if not draft.values.get("data.sources"):
            folders = {key.replace("\\", "/").rpartition("/")[0] for key in file.mapping}
            for folder in sorted(folders - {""})[:16]:
                draft.add("data.sources", {"path": folder}, (file.name, folder))
