"""Concept Sliders (rohitgandikota/sliders) and LECO (p1atdev/LECO): config.yaml and prompts.yaml.

Both train ε(target) towards ε₀(neutral) ± g (ε₀(positive) − ε₀(unconditional)): "enhance" adds,
"erase" subtracts. Where the unconditional prompt says something, it is the concept's other end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loba_tui.client.recipes.imports import common, training
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.settings import Settings, as_number
from loba_tui.client.recipes.imports.sources import ForeignFile, read_if_there
from loba_tui.core.errors import RecipeError
from loba_tui.core.text import clean

NAME = "Concept Sliders or LECO"

_ATTENTION = ("cross_attention", "self_attention")
_LINEAR = {
    "xattn": ("cross_attention",),
    "xattn-strict": ("cross_attention",),
    "noxattn": ("self_attention",),
    "innoxattn": ("self_attention",),
    "selfattn": ("self_attention",),
    "full": _ATTENTION,
}
_WITH_CONVOLUTIONS = frozenset(["noxattn", "innoxattn", "full"])
_REASONS = {
    "dynamic_resolution": "all samples have train.resolution",
    "dynamic_crops": "SD-XL is told of whole images",
    "bucketing": "all samples have train.resolution",
    "weight": "concepts weigh the same here",
}


class ConceptSliders:
    """Reads the two files, and the folders of image sliders."""

    name = NAME

    def evidence(self, file: ForeignFile) -> str:
        """Return the keys that are these tools' own."""
        keys = set(file.mapping)
        if isinstance(file.mapping.get("pretrained_model"), dict) and keys & {
            "prompts_file", "network", "train",
        }:  # fmt: skip
            return "pretrained_model.name_or_path"
        if is_prompts(file):
            return "target, positive, unconditional"
        return ""

    def also_reads(self, file: ForeignFile) -> bool:
        """Say whether a file has flags, which image sliders have."""
        return file.shell is not None

    def read(self, files: Sequence[ForeignFile]) -> Draft:
        """Return the recipe of a configuration and its prompts."""
        draft = Draft(NAME)
        config = common.main_file(
            files,
            lambda file: "pretrained_model" in file.mapping,
            others="prompts of Concept Sliders or LECO",
            example="config.yaml prompts.yaml",
        )
        flags = next((file.shell.flags() for file in files if file.shell is not None), {})
        settings = Settings(config.mapping, draft)
        _read_config(settings, draft)
        if "folder_main" in flags:
            settings.leave(["prompts_file"], "image sliders learn from pairs of images")
            _read_folders(Settings(flags, draft, "--"), draft)
        else:
            listed = _prompts_of(settings, draft, files, config)
            read_prompts(listed, draft, prompts_name=str(settings.raw("prompts_file") or "prompts"))
            Settings(flags, draft, "--").leave_rest()
        settings.leave_rest()
        return draft


def is_prompts(file: ForeignFile) -> bool:
    """Say whether a file lists concepts: pairs as LECO has them, or ai-toolkit's targets."""
    listed = file.mapping.get("targets")
    if isinstance(listed, list) and listed and "job" not in file.mapping:
        return all(isinstance(each, dict) and "positive" in each for each in listed)
    marks = {"positive", "unconditional", "neutral", "action", "guidance_scale"}
    return bool(file.entries) and all("target" in e and marks & set(e) for e in file.entries)


def concepts_of(file: ForeignFile) -> list[Mapping[str, Any]]:
    """Return the concepts of a file of prompts, in LECO's words."""
    if file.entries:
        return file.entries
    shared = {key: value for key, value in file.mapping.items() if key != "targets"}
    return [
        {
            "target": each.get("target_class", ""),
            "unconditional": each.get("negative", ""),
            "neutral": "",
            "action": "enhance",
            **shared,
            **{k: v for k, v in each.items() if k not in ("target_class", "negative")},
        }
        for each in file.mapping.get("targets", [])
    ]


def _prompts_of(
    settings: Settings, draft: Draft, files: Sequence[ForeignFile], config: ForeignFile
) -> list[Mapping[str, Any]]:
    given = [file for file in files if is_prompts(file)]
    wanted = settings.text("prompts_file")
    if not given and wanted:
        found = read_if_there(wanted, config.path, draft)
        given = [found] if found is not None and is_prompts(found) else []
    listed = [concept for file in given for concept in concepts_of(file)]
    if not listed:
        raise RecipeError(
            f"{clean(config.name)}: its prompts are in {clean(wanted or 'another file')},"
            " which is not here.",
            "Name that file too: loba recipe import config.yaml prompts.yaml",
        )
    return listed


def _read_config(settings: Settings, draft: Draft) -> None:
    model, network = settings.part("pretrained_model"), settings.part("network")
    train, save = settings.part("train"), settings.part("save")
    common.put_name(draft, save.text("name"), save.origin("name"))
    common.put_model(draft, model.text("name_or_path"), model.origin("name_or_path"))
    model.leave(["v2"], "the family is told from the model itself")
    if model.flag("v_pred"):
        origin = model.origin("v_pred")
        common.put_model_key(draft, "prediction_type", "v_prediction", origin)
    common.put_dtype(draft, train.text("precision"), train.origin("precision"))
    _read_network(network, draft)
    optimizer_name = train.text("optimizer")
    draft.put("optimizer.lr", train.number("lr"), train.origin("lr"))
    _put_arguments(train, draft, optimizer_name)
    draft.put("train.steps", train.whole("iterations"), train.origin("iterations"))
    schedule = train.text("lr_scheduler")
    training.put_schedule(draft, schedule, {}, train.origin("lr_scheduler"))
    if draft.values.get("scheduler.model.name") == "cosine_restarts":
        note = "theirs begins anew after 1/10, 3/10 and 7/10 of the run; here after 1/7 and 3/7"
        draft.put("scheduler.model.cycles", 3)
        draft.put("scheduler.model.growth", 2.0, None, note)
    noise = train.text("noise_scheduler")
    training.put_noise_scheduler(draft, noise, train.origin("noise_scheduler"), "scheduler.noise")
    steps = train.whole("max_denoising_steps")
    draft.put("method.rollout_steps", steps, train.origin("max_denoising_steps"))
    draft.put("save.every", save.whole("per_steps"), save.origin("per_steps"))
    save.leave(["path"], common.OUT_DIR)
    save.leave(["precision"], "adapters are written in 32 bits; loba export can write others")
    for section in (model, network, train, save):
        section.leave_rest()
    logging, other = settings.part("logging"), settings.part("other")
    logging.leave(["use_wandb"], common.NO_TRACKER)
    logging.leave_rest({"verbose": "a run's log has everything"})
    if other.flag("use_xformers"):
        origin = other.origin("use_xformers")
        draft.left(*origin, "base_model.attention: auto takes the fastest that is there")
    other.leave_rest()


def _put_arguments(train: Settings, draft: Draft, name: str | None) -> None:
    words = train.raw("optimizer_args")
    options = training.optimizer_options(training.key_values(words), draft, "train.optimizer_args ")
    training.put_optimizer(draft, name, options, train.origin("optimizer"))


def _read_network(network: Settings, draft: Draft) -> None:
    kind = (network.text("type") or "lierla").lower()
    method = (network.text("training_method") or "full").lower()
    origin = network.origin("training_method")
    layers = _LINEAR.get(method)
    if layers is None:
        layers = _LINEAR["noxattn" if method.startswith("noxattn") else "full"]
        draft.left(*origin, f"layers of this choice cannot be named; {', '.join(layers)} stand in")
    convolutions = kind == "c3lier" and (method in _WITH_CONVOLUTIONS or method not in _LINEAR)
    draft.put("adapter.name", "locon" if convolutions else "lora", network.origin("type"))
    if kind == "c3lier" and not convolutions:
        draft.note("adapter.name", f"c3lier with {method} trains no convolution, so it is LoRA")
    if kind not in ("lierla", "c3lier"):
        draft.left(*network.origin("type"), "expected lierla or c3lier")
    note = f"{method} of {kind}" + (", as far as it is attention" if method == "full" else "")
    both = (*layers, "convolution") if convolutions else layers
    common.put_layers(draft, both, origin, note)
    rank, alpha = network.whole("rank"), network.number("alpha")
    origins = [network.origin("rank"), network.origin("alpha")]
    common.put_rank(draft, 4 if rank is None else rank, alpha, origins, "1")


def read_prompts(listed: Sequence[Mapping[str, Any]], draft: Draft, prompts_name: str) -> None:
    """Put concepts and the method that trains them."""
    parts = [Settings(each, draft, f"{prompts_name}.{i}.") for i, each in enumerate(listed)]
    concepts = [_concept(part) for part in parts]
    actions = [part.text("action") or "erase" for part in parts]
    has_ends = any(concept["negative"] for concept in concepts)
    is_mixed = len(set(actions)) > 1
    if (has_ends and "enhance" in actions) or is_mixed:
        draft.put("method.name", "text_slider")
        _note_slider(draft, is_mixed=is_mixed)
    else:
        draft.put("method.name", "leco")
        known = actions[0] if actions[0] in ("erase", "enhance") else None
        draft.put("method.action", known or "erase", parts[0].origin("action"))
    is_slider = draft.values["method.name"] == "text_slider"
    for index, (concept, action) in enumerate(zip(concepts, actions, strict=True)):
        if action not in ("erase", "enhance"):
            draft.left(*parts[index].origin("action"), "expected erase or enhance")
        if is_slider and action == "erase":
            concept["positive"], concept["negative"] = concept["negative"], concept["positive"]
        draft.add("method.concepts", _written(concept, is_slider=is_slider))
    _put_sizes(parts, draft)
    for part in parts:
        part.leave_rest(_REASONS)
    put_drawn_prompts(draft, concepts)


def _note_slider(draft: Draft, *, is_mixed: bool) -> None:
    draft.note(
        "method.concepts",
        "negative is what they call unconditional: the prompt whose difference from positive is"
        " learned is the concept's other end.",
    )
    draft.note(
        "method.concepts",
        "Both strengths -1 and 1 are trained here; theirs trains 1 alone, which is scales: [1].",
    )
    if is_mixed:
        draft.note(
            "method.concepts",
            "Concepts to erase have positive and negative exchanged: erasing is the slider's other"
            " direction.",
        )


def _concept(part: Settings) -> dict[str, Any]:
    target = part.text("target") or ""
    positive, negative = part.text("positive"), part.text("unconditional") or ""
    neutral = part.text("neutral")
    return {
        "target": target,
        "positive": target if positive is None else positive,
        "negative": negative,
        "neutral": negative if neutral is None else neutral,
        "guidance": part.number("guidance_scale"),
    }


def _written(concept: Mapping[str, Any], *, is_slider: bool) -> dict[str, Any]:
    """Return a concept as a recipe has it: without what is the default there."""
    written = {"target": escaped(concept["target"])}
    if is_slider or concept["positive"] != concept["target"]:
        written["positive"] = escaped(concept["positive"])
    if is_slider or concept["negative"]:
        written["negative"] = escaped(concept["negative"])
    if concept["neutral"] != concept["target"]:
        written["neutral"] = escaped(concept["neutral"])
    if concept["guidance"] is not None:
        written["guidance"] = concept["guidance"]
    return written


def escaped(prompt: str) -> str:
    """Return a prompt whose braces stay braces: in a concept they would be placeholders."""
    return prompt.replace("{", "{{").replace("}", "}}")


def _put_sizes(parts: Sequence[Settings], draft: Draft) -> None:
    for name, key in (("resolution", "train.resolution"), ("batch_size", "train.batch_size")):
        values = [part.whole(name) for part in parts]
        given = list(dict.fromkeys(value for value in values if value is not None))
        if given:
            draft.put(key, given[0], next(p for p in parts if name in p).origin(name))
        for other in given[1:]:
            draft.left(f"prompts: {name}", other, "one for all concepts here: the first one's")
        if not given and key == "train.batch_size":
            draft.put(key, 1, None, "not given: 1")


def put_drawn_prompts(draft: Draft, concepts: Sequence[Mapping[str, Any]]) -> None:
    """Name a prompt to draw where every target is the empty one, of which nothing can be seen."""
    if "sample.prompts" in draft.values or any(c["target"].strip() for c in concepts):
        return
    texts = [c["positive"] for c in concepts if c["positive"].strip()]
    if texts:
        note = "the targets are empty, so a prompt to draw is needed: write your own"
        draft.put("sample.prompts", list(dict.fromkeys(texts))[:4], None, note)


def _read_folders(flags: Settings, draft: Draft) -> None:
    """Put image sliders' `--folder_main DIR --folders "a, b" --scales "1, -1"`."""
    main = flags.text("folder_main") or ""
    folders, scales = (_listed(flags.raw(key)) for key in ("folders", "scales"))
    draft.put("method.name", "image_slider")
    for folder, scale in zip(folders, scales, strict=False):
        path = f"{main.rstrip('/')}/{folder}"
        number = as_number(scale)
        draft.add("data.sources", {"path": path, "scale": number}, flags.origin("folders"))
    draft.put("data.captions.missing", "", None, "theirs trains pairs on the target prompt")
    common.put_name(draft, flags.text("name"), flags.origin("name"))
    draft.put("adapter.rank", flags.whole("rank"), flags.origin("rank"))
    draft.put("adapter.alpha", flags.number("alpha"), flags.origin("alpha"))
    draft.put("sample.prompts", ["a photo"], None, "a prompt to draw is needed: write your own")
    flags.leave_rest({"device": "the device is base_model.device here", "config_file": "read"})


def _listed(value: Any) -> list[str]:
    words = value if isinstance(value, list) else str(value or "").split(",")
    return [part.strip() for word in words for part in str(word).split(",") if part.strip()]
