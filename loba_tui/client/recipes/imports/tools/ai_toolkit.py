"""ai-toolkit (ostris/ai-toolkit): jobs in YAML or JSON that train a LoRA or a slider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loba_tui.client.recipes.imports import common, families, names, prompts, training
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.settings import Settings, as_number
from loba_tui.client.recipes.imports.sources import ForeignFile
from loba_tui.client.recipes.imports.tools.ai_toolkit_data import read_data
from loba_tui.client.recipes.imports.tools.ai_toolkit_flow import put_flow_timesteps
from loba_tui.client.recipes.imports.tools.concept_sliders import escaped
from loba_tui.core.errors import RecipeError

NAME = "ai-toolkit"

_LORA = frozenset(["sd_trainer", "diffusion_trainer", "ui_trainer", "lora"])
_SLIDERS = frozenset(["slider", "concept_slider", "ultimate_slider_trainer"])
_ARCHITECTURES = ("sd1", "sd15", "sd2", "sdxl", "ssd", "vega", "sd")
_FAMILY_FLAGS = {
    "is_flux": "flux",
    "is_v3": "sd3",
    "is_pixart": "pixart",
    "is_pixart_sigma": "pixart",
    "is_auraflow": "auraflow",
    "is_lumina2": "lumina2",
}
_TRAIN = {
    "steps": "train.steps",
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "gradient_accumulation": "train.gradient_accumulation",
    "gradient_checkpointing": "base_model.gradient_checkpointing",
    "max_grad_norm": "train.max_grad_norm",
}
_SAMPLE = {
    "sample_every": "sample.every",
    "neg": "sample.negative_prompt",
    "seed": "sample.seeds",
    "guidance_scale": "sample.guidance_scale",
    "sample_steps": "sample.steps",
}
_TRAIN_REASONS = {
    "train_unet": "the UNet is always trained",
    "skip_first_sample": "strips are drawn every sample.every steps",
    "disable_sampling": "sample.every: 0 draws the last strip only",
    "xformers": "base_model.attention: auto takes the fastest that is there",
    "sdp": "base_model.attention: auto takes the fastest that is there",
    "cache_text_embeddings": "prompts are always encoded once, before training",
    "unload_text_encoder": "text encoders are always dropped once prompts are encoded",
}
_JOB_REASONS = {
    "device": "the device is base_model.device: auto here",
    "training_folder": common.OUT_DIR,
    "log_dir": common.OUT_DIR,
    "sqlite_db_path": common.MACHINE,
    "performance_log_every": common.MACHINE,
}


class AiToolkit:
    """Reads the first process of a job."""

    name = NAME

    def evidence(self, file: ForeignFile) -> str:
        """Return the keys of a job."""
        config = file.mapping.get("config")
        if "job" in file.mapping and isinstance(config, dict) and "process" in config:
            return "job, config.process"
        return ""

    def also_reads(self, file: ForeignFile) -> bool:
        """Say no: a job is one file."""
        return False

    def read(self, files: Sequence[ForeignFile]) -> Draft:
        """Return the recipe of a job."""
        draft = Draft(NAME)
        file = next(each for each in files if self.evidence(each))
        job = Settings(file.mapping, draft)
        job.raw("job")
        config = job.part("config")
        common.put_name(draft, config.text("name"), config.origin("name"))
        processes = config.parts("process")
        if not processes:
            raise RecipeError(f"{file.name}: config.process is empty, so it trains nothing.")
        for index in range(1, len(processes)):
            draft.left(f"config.process.{index}", "a process", "a recipe is one run: the first")
        process = processes[0]
        kind = (process.text("type") or "").lower()
        if kind not in _LORA | _SLIDERS:
            common.refuse_kind(f"by the process {kind or '(none)'}", NAME)
        _read_model(process.part("model"), draft)
        _read_network(process.part("network"), draft)
        train = process.part("train")
        _read_train(train, draft)
        _read_sample(process, draft, is_slider=kind in _SLIDERS)
        if kind in _SLIDERS:
            _read_slider(process, train, draft)
        else:
            read_data(process, draft, file)
            if draft.family is None:
                _put_range(train, draft)
        if draft.family is not None:
            put_flow_timesteps(train, draft, draft.family, is_slider=kind in _SLIDERS)
        _read_save(process.part("save"), draft)
        process.part("logging").leave_rest({"use_wandb": common.NO_TRACKER})
        for settings in (process, config):
            settings.leave_rest(_JOB_REASONS)
        train.leave_rest(_TRAIN_REASONS)
        meta = job.part("meta")
        meta.leave_rest(dict.fromkeys(meta.keys(), "a model card is written by loba push"))
        job.leave_rest()
        return draft


def _read_model(model: Settings, draft: Draft) -> None:
    kind = (model.text("arch") or "").split(":")[0]
    if kind.lower() == "flux2":
        families.refuse("FLUX.2 dev", NAME)
    family = families.of_kind_or(kind, _ARCHITECTURES, NAME) if kind else None
    for flag, word in _FAMILY_FLAGS.items():
        if model.flag(flag):
            family = families.of_kind(word, NAME)
    common.put_model(draft, model.text("name_or_path"), model.origin("name_or_path"), family)
    common.put_model_key(draft, "vae", model.text("vae_path"), model.origin("vae_path"))
    if model.flag("is_v_pred"):
        common.put_model_key(draft, "prediction_type", "v_prediction", model.origin("is_v_pred"))
    reasons = dict.fromkeys(
        ("is_xl", "is_v2", "is_ssd", "is_vega"), "the family is told from the model itself"
    )
    reasons |= dict.fromkeys(("quantize", "quantize_te", "qtype"), "models are not quantized here")
    reasons["assistant_lora_path"] = "train the model that is not distilled, where there is one"
    reasons["low_vram"] = "base_model.offload: model keeps the model in main memory"
    model.leave_rest(reasons)


def _read_network(network: Settings, draft: Draft) -> None:
    kind = (network.text("type") or "lora").lower()
    rank, conv = network.whole("linear", "rank"), network.whole("conv")
    alpha = network.number("linear_alpha", "alpha")
    layers = list(names.TRANSFORMER)
    adapter = {"lierla": "lora", "c3lier": "locon"}.get(kind, kind)
    if conv and adapter == "lora":
        adapter = "locon"
    if adapter == "locon":
        layers.append("convolution")
    draft.put("adapter.name", adapter, network.origin("type"))
    origins = [network.origin("linear", "rank"), network.origin("linear_alpha", "alpha")]
    common.put_rank(draft, rank, alpha, origins, "rank" if kind == "lora" else "1")
    if adapter == "locon":
        draft.put("adapter.conv_rank", conv, network.origin("conv"))
        draft.put("adapter.conv_alpha", network.number("conv_alpha"), network.origin("conv_alpha"))
    common.put_factor(draft, network, "lokr_factor")
    if draft.family is not None:
        note = "all layers of blocks, as theirs has it"
        common.put_flow_layers(
            draft, draft.family, draft.family.layers, network.origin("type"), note
        )
    else:
        common.put_layers(draft, layers, network.origin("type"), "as theirs has it for UNets")
    common.put_first_weights(draft, network, "pretrained_lora_path")
    inner = network.part("network_kwargs")
    inner.leave_rest({"only_if_contains": "layers are chosen by groups: adapter.layers"})
    network.leave_rest({"dropout": common.NO_DROPOUT, "transformer_only": "see adapter.layers"})


def _read_train(train: Settings, draft: Draft) -> None:
    training.put_batch(draft, train, "batch_size")
    common.carry(train, draft, _TRAIN)
    training.put_rate(draft, train, "unet_lr", "lr")
    inner = train.raw("optimizer_params") or {}
    options = training.optimizer_options(
        inner if isinstance(inner, dict) else {}, draft, "train.optimizer_params."
    )
    training.put_optimizer(draft, train.text("optimizer"), options, train.origin("optimizer"))
    inner = train.raw("lr_scheduler_params")
    wanted = dict(inner) if isinstance(inner, dict) else {}
    warmup = as_number(wanted.pop("warmup_steps", wanted.pop("num_warmup_steps", None)))
    training.put_schedule(draft, train.text("lr_scheduler"), wanted, train.origin("lr_scheduler"))
    training.put_warmup(draft, warmup, ("train.lr_scheduler_params", warmup))
    noise = train.text("noise_scheduler")
    training.put_noise_scheduler(draft, noise, train.origin("noise_scheduler"), "scheduler.noise")
    common.put_dtype(draft, train.text("dtype"), train.origin("dtype"))
    training.put_min_snr(draft, train, "min_snr_gamma", "snr_gamma")
    training.put_noise(train, draft, {"offset": "noise_offset"})
    training.put_loss(draft, train, "loss_type")
    average = train.part("ema_config")
    if average.flag("use_ema"):
        draft.put(
            "train.ema.decay", average.number("ema_decay") or 0.999, average.origin("ema_decay")
        )
    average.leave_rest()
    if draft.family is None:
        _put_timesteps(train, draft)
    if train.flag("train_text_encoder"):
        rate, origin = train.number("text_encoder_lr"), train.origin("train_text_encoder")
        common.put_text_encoders(draft, {"text_encoder": rate}, origin, num_encoders=1)
    else:
        train.leave(["text_encoder_lr"], "train_text_encoder is off")


def _put_timesteps(train: Settings, draft: Draft) -> None:
    key = ("timestep_type", "content_or_style")
    kind, origin = train.text(*key), train.origin(*key)
    if kind == "sigmoid":
        draft.put("scheduler.timestep.name", "logit_normal", origin, "their sigmoid")
    elif kind in ("content", "style"):
        side = "noise, where content is" if kind == "content" else "the image, where style is"
        draft.left(*origin, f"scheduler.timestep: linear leans towards {side}, by your slope")
    elif kind not in (None, "balanced", "linear", "uniform"):
        draft.left(*origin, "scheduler.timestep has densities of its own: loba plugins ls")


def _read_sample(process: Settings, draft: Draft, *, is_slider: bool) -> None:
    sample = process.part("sample")
    common.carry(sample, draft, _SAMPLE)
    sampler = sample.text("sampler")
    training.put_noise_scheduler(draft, sampler, sample.origin("sampler"), "sample.noise")
    listed = sample.raw("prompts") or [
        item.get("prompt", "") for item in sample.raw("samples") or () if isinstance(item, dict)
    ]
    trigger = str(process.raw("trigger_word") or "")
    lines = [str(line).replace("[trigger]", trigger) for line in listed if line is not None]
    prompts.put_prompts(draft, lines, "sample.prompts")
    multiplier = sample.number("network_multiplier")
    if not is_slider:
        prompts.scale_pair(draft, multiplier, sample.origin("network_multiplier"))
    sizes = dict.fromkeys(("width", "height"), "pictures are drawn at train.resolution")
    sample.leave_rest({**sizes, "walk_seed": "every prompt has the seeds of sample.seeds"})
    if trigger and not is_slider:
        draft.put("data.captions.trigger", trigger, process.origin("trigger_word"))


def _put_range(train: Settings, draft: Draft) -> None:
    """Put which timesteps are trained: theirs are counted from the image, 0, to noise, 1000."""
    for key, option, usual in (
        ("min_denoising_steps", "low", 0),
        ("max_denoising_steps", "high", 1000),
    ):
        step = train.whole(key)
        if step is not None and step != usual:
            note = f"{step} of 1000"
            draft.put(f"scheduler.timestep.{option}", step / 1000, train.origin(key), note)


def _read_slider(process: Settings, train: Settings, draft: Draft) -> None:
    slider = process.part("slider")
    draft.put("method.name", "text_slider")
    rollout = train.whole("max_denoising_steps")
    draft.put("method.rollout_steps", rollout, train.origin("max_denoising_steps"))
    targets = slider.parts("targets")
    concepts = [_concept(target, draft) for target in targets]
    if not targets:
        concepts = [_concept_of_ui(slider)]
        draft.put(
            "method.rescale_target", True, None, "theirs brings targets to the neutral's norm"
        )
    anchors = [anchor.text("prompt") or "" for anchor in slider.parts("anchors")]
    anchor = slider.text("anchor_class")
    preserve = [escaped(text) for text in [*anchors, anchor or ""] if text]
    for concept in concepts:
        draft.add("method.concepts", {**concept, **({"preserve": preserve} if preserve else {})})
    draft.note("method.concepts", "negative is the other end of the slider, as it is there.")
    if targets:
        note = "neutral is the empty prompt there; leave it out to start from the target, as here."
        draft.note("method.concepts", note)
    sizes = slider.raw("resolutions") or []
    for index, size in enumerate(sizes if isinstance(sizes, list) else [sizes]):
        origin = ("slider.resolutions", size)
        if index == 0:
            common.put_resolution(draft, size, origin)
        else:
            draft.left(*origin, "one resolution a run: the first one's")
    steps = draft.values.get("train.steps")
    if targets and isinstance(steps, int):
        draft.note("train.steps", "a step there trains a concept in both directions, as here")
    for dataset in process.parts("datasets"):
        dataset.leave_rest(dict.fromkeys(dataset.keys(), "text_slider trains on prompts alone"))
    if not any(concept["target"].strip() for concept in concepts):
        _put_prompt(draft, [str(concept.get("positive", "")) for concept in concepts])
    slider.leave_rest({"batch_full_slide": "both directions are trained anyway"})


def _put_prompt(draft: Draft, texts: Sequence[str]) -> None:
    if "sample.prompts" not in draft.values and any(texts):
        note = "the targets are empty, so a prompt to draw is needed: write your own"
        draft.put("sample.prompts", [text for text in texts if text][:4], None, note)


def _concept(target: Settings, draft: Draft) -> dict[str, Any]:
    words = target.text("target_class") or ""
    concept: dict[str, Any] = {
        "target": escaped(words),
        "positive": escaped(target.text("positive") or ""),
        "negative": escaped(target.text("negative") or ""),
    }
    if words:
        concept["neutral"] = ""
    multiplier = target.number("multiplier")
    if multiplier is not None and multiplier > 0:
        concept["guidance"] = multiplier
    if target.number("weight") not in (None, 1.0):
        draft.left(*target.origin("weight"), "concepts weigh the same here")
    if target.flag("shuffle"):
        draft.left(
            *target.origin("shuffle"), "the order of a prompt's parts stays; vary lists variants"
        )
    target.leave_rest()
    return concept


def _concept_of_ui(slider: Settings) -> dict[str, Any]:
    concept: dict[str, Any] = {
        "target": escaped(slider.text("target_class") or ""),
        "positive": escaped(slider.text("positive_prompt") or ""),
        "negative": escaped(slider.text("negative_prompt") or ""),
    }
    strength = slider.number("guidance_strength")
    return {**concept, "guidance": 3.0 if strength is None else strength}


def _read_save(save: Settings, draft: Draft) -> None:
    common.carry(save, draft, {"save_every": "save.every"})
    common.put_kept(draft, save, "max_step_saves_to_keep")
    reasons = dict.fromkeys(("push_to_hub", "hf_repo_id", "hf_private"), common.NO_UPLOAD)
    reasons["dtype"] = "adapters are written in 32 bits; loba export can write others"
    save.leave_rest(reasons)
