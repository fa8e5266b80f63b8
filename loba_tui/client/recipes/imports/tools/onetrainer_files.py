"""OneTrainer's concepts, which are folders of images, and its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loba_tui.client.recipes.imports import images, prompts, training
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.settings import Settings
from loba_tui.client.recipes.imports.sources import ForeignFile, read_if_there


def listed(
    settings: Settings,
    draft: Draft,
    keys: tuple[str, str],
    files: Sequence[ForeignFile],
    config: ForeignFile,
) -> list[Mapping[str, Any]]:
    """Return concepts or samples: of the configuration, or of a file beside it."""
    inline, named = keys
    marks = {"concepts": "path", "samples": "prompt"}
    given = [e for file in files for e in file.entries if marks[inline] in e]
    own = settings.raw(inline)
    if isinstance(own, list):
        given += [each for each in own if isinstance(each, dict)]
    wanted = settings.text(named)
    if not given and wanted:
        found = read_if_there(wanted, config.path, draft)
        given = found.entries if found is not None else []
        if not given:
            draft.left(*settings.origin(named), "not here to read: name it too")
    return given


def read_concepts(
    listed: Sequence[Mapping[str, Any]], draft: Draft, file: ForeignFile
) -> int | None:
    """Put a source for each concept; return an epoch's samples where they can be counted."""
    draft.put("method.name", "lora_finetune")
    total: int | None = 0
    for index, each in enumerate(listed):
        concept = Settings(each, draft, f"concepts.{index}.")
        path = concept.text("path")
        if concept.flag("enabled") is False or concept.text("type") == "VALIDATION":
            draft.left(f"concepts.{index}", path, "it is switched off, or for validation")
            continue
        if not path:
            continue
        balancing = concept.number("balancing", "repeats")
        source: dict[str, Any] = {"path": path}
        if balancing is not None and balancing != 1:
            if balancing == int(balancing) and concept.text("balancing_strategy") != "SAMPLES":
                source["repeats"] = int(balancing)
            else:
                draft.left(*concept.origin("balancing"), "repeats is a whole number of times")
        if concept.text("type") == "PRIOR_PREDICTION":
            source["prior"] = True
        nested = bool(concept.flag("include_subdirectories"))
        draft.add("data.sources", source, concept.origin("path"))
        _read_text(concept, draft, source)
        _read_image(concept, draft)
        count = images.count_images(images.resolved(path, file.path), nested=nested)
        total = None if count is None or total is None else total + count * source.get("repeats", 1)
        concept.leave_rest({"loss_weight": "sources weigh the same", "seed": "train.seed is one"})
    return total or None


def _read_text(concept: Settings, draft: Draft, source: dict[str, Any]) -> None:
    text = concept.part("text")
    kind = text.text("prompt_source") or "sample"
    if kind == "filename":
        draft.left(
            *text.origin("prompt_source"), "captions are files here; write the names into them"
        )
    elif kind == "concept":
        draft.left(
            *text.origin("prompt_path"), "one caption is written as caption: TEXT in the source"
        )
    shuffled = text.flag("enable_tag_shuffling")
    if shuffled:
        draft.put("data.captions.shuffle", True, text.origin("enable_tag_shuffling"))
        keep = text.whole("keep_tags_count")
        draft.put("data.captions.keep", keep, text.origin("keep_tags_count"))
        separator = text.text("tag_delimiter")
        draft.put("data.captions.separator", separator or None, text.origin("tag_delimiter"))
    if text.flag("tag_dropout_enable"):
        share = text.number("tag_dropout_probability")
        draft.put("data.captions.drop_tags", share, text.origin("tag_dropout_probability"))
    off = "tags are not shuffled or dropped"
    text.leave(["keep_tags_count", "tag_delimiter", "tag_dropout_probability"], off)
    text.leave_rest()


def _read_image(concept: Settings, draft: Draft) -> None:
    image = concept.part("image")
    flipped = image.flag("enable_random_flip")
    draft.put("data.flip", flipped or None, image.origin("enable_random_flip"))
    if image.flag("enable_crop_jitter"):
        reason = "crops are in the middle; crop: random with cache: none takes any"
        draft.left(*image.origin("enable_crop_jitter"), reason)
    image.leave_rest()


def read_samples(listed: Sequence[Mapping[str, Any]], draft: Draft) -> None:
    """Put prompts to draw; what differs from sample to sample is the first one's."""
    parts = [Settings(each, draft, f"samples.{index}.") for index, each in enumerate(listed)]
    parts = [part for part in parts if part.flag("enabled") is not False]
    texts = [part.text("prompt") or "" for part in parts]
    texts = list(dict.fromkeys(text for text in texts if text.strip()))
    if texts:
        draft.put("sample.prompts", texts[: prompts.MOST_PROMPTS], ("samples", len(texts)))
    else:
        draft.put("sample.prompts", ["a photo"], None, "a prompt to draw is needed: write your own")
    prompts.scale_pair(draft, None, ("samples", len(texts)))
    if parts:
        first = parts[0]
        draft.put(
            "sample.negative_prompt",
            first.text("negative_prompt") or None,
            first.origin("negative_prompt"),
        )
        seed = first.whole("seed")
        draft.put("sample.seeds", None if seed is None else [seed], first.origin("seed"))
        draft.put("sample.steps", first.whole("diffusion_steps"), first.origin("diffusion_steps"))
        draft.put("sample.guidance_scale", first.number("cfg_scale"), first.origin("cfg_scale"))
        training.put_noise_scheduler(
            draft, _sampler(first), first.origin("noise_scheduler"), "sample.noise"
        )
        first.leave_rest(dict.fromkeys(("width", "height"), "drawn at train.resolution"))
    for other in parts[1:]:
        other.leave_rest(dict.fromkeys(other.keys(), "one for all prompts here: the first one's"))


def _sampler(sample: Settings) -> str | None:
    name = sample.text("noise_scheduler")
    return None if name is None else name.replace("_KARRAS", "").replace("DPMPP", "DPM++")
