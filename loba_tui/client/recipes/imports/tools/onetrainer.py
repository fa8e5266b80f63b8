"""OneTrainer (Nerogar/OneTrainer): presets and saved configurations in JSON, concepts, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loba_tui.client.recipes.imports import common, families, names, training
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.families import FlowFamily
from loba_tui.client.recipes.imports.settings import Settings
from loba_tui.client.recipes.imports.sources import ForeignFile
from loba_tui.client.recipes.imports.tools import onetrainer_files, onetrainer_timesteps
from loba_tui.core.errors import RecipeError
from loba_tui.core.text import clean

NAME = "OneTrainer"

_OURS = ("STABLE_DIFFUSION_15", "STABLE_DIFFUSION_20", "STABLE_DIFFUSION_21", "STABLE_DIFFUSION_XL")
_OPTIMIZER_OPTIONS = (
    "beta1", "beta2", "beta3", "eps", "weight_decay", "momentum", "nesterov", "d_coef", "d0",
    "growth_rate", "use_bias_correction", "safeguard_warmup", "clip_threshold", "decay_rate",
    "min_8bit_size", "r", "weight_lr_power",
)  # fmt: skip
_LAYERS = {
    "attn-mlp": names.TRANSFORMER,
    "attn-only": ("cross_attention", "self_attention"),
    "full": (*names.TRANSFORMER, "convolution"),
}
_FLOW_LAYERS = {
    "attn-mlp": ("cross_attention", "self_attention", "feed_forward"),
    "attn-only": ("cross_attention", "self_attention"),
    "full": ("cross_attention", "self_attention", "feed_forward", "modulation", "projection"),
}
_NUMBERS = {
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "clip_grad_norm": "train.max_grad_norm",
    "aspect_ratio_bucketing": "data.buckets.enabled",
}
_ONE_DTYPE = {"weight_dtype": "base_model.dtype is one for all components"}
_MASKS = "masks are a folder of their own here: masks: FOLDER in each of data.sources"
_REASONS = {
    "output_model_destination": common.OUT_DIR,
    "workspace_dir": common.OUT_DIR,
    "output_model_format": "loba export writes other forms",
    "output_dtype": "adapters are written in 32 bits; loba export can write others",
    "tensorboard": common.NO_TRACKER,
    "lora_weight_dtype": "the adapter is trained in 32 bits",
    "attention_mechanism": "base_model.attention: auto takes the fastest that is there",
    "text_encoder_layer_skip": "prompts are encoded as the model's own pipeline does",
    "dropout_probability": common.NO_DROPOUT,
    "unmasked_probability": "masks are used in every step",
    "dataloader_threads": "data.workers is 0 here: images are decoded once and kept",
    **dict.fromkeys(
        ("latent_caching", "cache_dir", "clear_cache_before_training"),
        "latents are kept by data.cache",
    ),
    **dict.fromkeys(("train_device", "temp_device", "multi_gpu", "compile"), common.MACHINE),
    **dict.fromkeys(("backup_after", "backup_after_unit"), "checkpoints are by save.every"),
}


class OneTrainer:
    """Reads a configuration with its concepts and samples."""

    name = NAME

    def evidence(self, file: ForeignFile) -> str:
        """Return the keys that are OneTrainer's own."""
        keys = set(file.mapping)
        if "base_model_name" in keys and keys & {"training_method", "model_type", "concepts"}:
            return "base_model_name, training_method"
        first = set(file.entries[0]) if file.entries else set()
        if {"path", "image", "text"} <= first or {"path", "include_subdirectories"} <= first:
            return "concepts"
        return "samples" if {"prompt", "cfg_scale"} <= first else ""

    def also_reads(self, file: ForeignFile) -> bool:
        """Say no: nothing but its own files is read."""
        return False

    def read(self, files: Sequence[ForeignFile]) -> Draft:
        """Return the recipe of a configuration."""
        draft = Draft(NAME)
        file = common.main_file(
            files,
            lambda file: "base_model_name" in file.mapping,
            others="concepts or samples of OneTrainer",
            example="config.json concepts.json",
        )
        settings = Settings(file.mapping, draft)
        family = _check_kind(settings)
        model, origin = settings.text("base_model_name"), settings.origin("base_model_name")
        common.put_model(draft, model, origin, family)
        precision = settings.text("train_dtype")
        common.put_dtype(draft, _dtype(precision), settings.origin("train_dtype"))
        _read_adapter(settings, draft)
        _read_optimizer(settings, draft)
        _read_numbers(settings, draft)
        keys = ("concepts", "concept_file_name")
        concepts = onetrainer_files.listed(settings, draft, keys, files, file)
        samples = onetrainer_files.read_concepts(concepts, draft, file)
        if "data.sources" not in draft.values:
            raise RecipeError(
                f"{clean(file.name)} names no images: there are no concepts in it.",
                "Name their file too: loba recipe import config.json concepts.json",
            )
        per_epoch = _read_length(settings, draft, samples)
        keys = ("samples", "sample_definition_file_name")
        onetrainer_files.read_samples(
            onetrainer_files.listed(settings, draft, keys, files, file), draft
        )
        _read_units(settings, draft, per_epoch)
        settings.part("secrets").leave_rest({})
        settings.leave_rest({**_REASONS, **onetrainer_timesteps.REASONS})
        return draft


def _check_kind(settings: Settings) -> FlowFamily | None:
    kind = settings.text("model_type") or "STABLE_DIFFUSION_15"
    if "INPAINT" in kind or "DEPTH" in kind:
        common.refuse_kind("an inpainting or depth model", NAME)
    method = settings.text("training_method") or "FINE_TUNE"
    if method != "LORA":
        what = {"FINE_TUNE": "the whole model", "EMBEDDING": "an embedding"}.get(method, method)
        common.refuse_kind(what, NAME)
    # STABLE_DIFFUSION_3 is no beginning of these.
    return None if kind.startswith(_OURS) else families.of_kind_or(kind, _OURS, NAME)


def _dtype(value: str | None) -> str | None:
    return None if value is None else value.replace("FLOAT_", "FLOAT").replace("TFLOAT", "FLOAT")


def _read_adapter(settings: Settings, draft: Draft) -> None:
    kind = (settings.text("peft_type") or "LORA").upper()
    filter_name = settings.text("layer_filter_preset", "lora_layer_preset")
    layers = list(_LAYERS.get(filter_name or "full", _LAYERS["full"]))
    if draft.family is not None:
        layers = list(_FLOW_LAYERS.get(filter_name or "full", draft.family.layers))
    has_convolutions = "convolution" in layers
    adapter = {
        "LORA": "locon" if has_convolutions else "lora",
        "LOHA": "loha",
        "LOKR": "lokr",
        "OFT_2": "oft",
    }.get(kind)
    if settings.flag("lora_decompose") and kind == "LORA":
        adapter = "dora"
        draft.note("adapter.name", "lora_decompose is DoRA")
    if adapter is None:
        draft.left(*settings.origin("peft_type"), "adapters are lora, locon, loha, lokr, dora, oft")
    draft.put("adapter.name", adapter or "lora", settings.origin("peft_type"))
    if adapter == "locon":
        draft.note("adapter.name", "theirs is on convolutions too, which is LoCon here")
    if adapter == "oft":
        layers = [layer for layer in layers if layer != "convolution"]
        size = settings.whole("oft_block_size")
        draft.put("adapter.rank", size, settings.origin("oft_block_size"), "the size of a block")
    else:
        rank = settings.whole("lora_rank")
        alpha = settings.number("lora_alpha")
        origins = [settings.origin("lora_rank"), settings.origin("lora_alpha")]
        common.put_rank(draft, 16 if rank is None else rank, alpha, origins, "1")
        if rank is None:
            draft.note("adapter.rank", "not given: 16")
    if adapter == "lokr":
        common.put_factor(draft, settings, "lokr_decompose_factor")
        common.carry(settings, draft, {"lokr_decompose_both": "adapter.decompose_both"})
    origin = settings.origin("layer_filter_preset", "lora_layer_preset")
    note = f"their preset {filter_name or 'full'}"
    if draft.family is not None:
        common.put_flow_layers(draft, draft.family, layers, origin, note)
    else:
        common.put_layers(draft, layers, origin, note)
    common.put_first_weights(draft, settings, "lora_model_name")
    chosen = settings.text("layer_filter", "lora_layers")
    if chosen and filter_name not in (*_LAYERS, "blocks"):
        origin = settings.origin("layer_filter", "lora_layers")
        draft.left(*origin, "layers are chosen by groups: adapter.layers")
    settings.leave(["layer_filter_regex"], "layers are chosen by groups: adapter.layers")


def _read_optimizer(settings: Settings, draft: Draft) -> None:
    given = settings.raw("optimizer")
    origin = settings.origin("optimizer")
    inner: Mapping[str, Any] = given if isinstance(given, dict) else {"optimizer": given}
    part = Settings(inner, draft, "optimizer.")
    options = {key: part.raw(key) for key in _OPTIMIZER_OPTIONS}
    decay = settings.number("weight_decay")
    options["weight_decay"] = decay if options["weight_decay"] is None else options["weight_decay"]
    wanted = {key: value for key, value in options.items() if value is not None}
    found = training.optimizer_options(wanted, draft, "optimizer.")
    training.put_optimizer(draft, part.text("optimizer"), found, (origin[0], part.raw("optimizer")))
    part.leave_rest()
    settings.leave(["optimizer_defaults"], "only the optimizer that is used has options here")
    unet = settings.part("unet")
    own = (settings.part("transformer") if draft.family else unet).number("learning_rate")
    rate = settings.number("learning_rate")
    legacy = settings.number("unet_learning_rate")
    chosen = next((each for each in (own, legacy, rate) if each is not None), None)
    note = "of the UNet" if chosen is not None and chosen != rate else ""
    draft.put("optimizer.lr", chosen, settings.origin("learning_rate"), note)
    for part in (unet, settings.part("transformer")):
        reasons = {"train": "the denoiser is always trained", **_ONE_DTYPE}
        part.leave_rest({**reasons, **onetrainer_timesteps.REASONS})
    _put_text_encoders(settings, draft)
    vae = settings.part("vae")
    common.put_model_key(draft, "vae", vae.text("model_name"), vae.origin("model_name"))
    vae.leave_rest({"weight_dtype": "the VAE's precision is its own"})


def _put_text_encoders(settings: Settings, draft: Draft) -> None:
    """Have text encoders trained, which they are unless a file says no."""
    legacy, model_type = settings.flag("train_text_encoder"), settings.text("model_type")
    names = ("text_encoder", "text_encoder_2")[: 2 if "XL" in (model_type or "") else 1]
    if draft.family is not None:
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    general = settings.number("text_encoder_learning_rate")
    rates: dict[str, float | None] = {}
    for name in names:
        part = settings.part(name)
        trained, rate = part.flag("train"), part.number("learning_rate")
        usual = legacy is not False and draft.family is None
        if trained is not False and (trained or usual):
            rates[name] = general if rate is None else rate
        part.leave_rest(_ONE_DTYPE)
    origin = (f"{next(iter(rates), names[0])}.train", True)
    common.put_text_encoders(draft, rates, origin, num_encoders=len(names))


def _read_numbers(settings: Settings, draft: Draft) -> None:
    training.put_batch(draft, settings, "batch_size")
    common.carry(settings, draft, _NUMBERS)
    common.put_resolution(draft, _first(settings, draft), settings.origin("resolution"))
    training.put_noise(
        settings,
        draft,
        {"offset": "offset_noise_weight", "perturbation": "perturbation_noise_weight"},
    )
    weighting = settings.text("loss_weight_fn")
    strength = settings.number("loss_weight_strength")
    origin = settings.origin("loss_weight_fn")
    if weighting == "MIN_SNR_GAMMA":
        draft.put("loss.weighting", {"name": "min_snr", "gamma": strength or 5.0}, origin)
    elif weighting == "DEBIASED_ESTIMATION":
        draft.put("loss.weighting", {"name": "debiased"}, origin)
    elif weighting not in (None, "CONSTANT"):
        draft.left(*origin, "weightings are min_snr and debiased")
    training.put_min_snr(draft, settings, "min_snr_gamma")
    _put_loss(settings, draft)
    if (settings.text("ema") or "OFF") != "OFF":
        decay = settings.number("ema_decay") or 0.999
        draft.put("train.ema.decay", decay, settings.origin("ema_decay"))
    settings.leave(["ema_decay", "ema_update_step_interval"], "the average is updated every step")
    checkpointing = settings.raw("gradient_checkpointing")
    if checkpointing is not None:
        on = checkpointing is True or str(checkpointing).upper() in ("ON", "TRUE", "CPU_OFFLOADED")
        origin = settings.origin("gradient_checkpointing")
        draft.put("base_model.gradient_checkpointing", on, origin)
    common.put_model_key(
        draft,
        "zero_snr",
        settings.flag("rescale_noise_scheduler_to_zero_terminal_snr"),
        settings.origin("rescale_noise_scheduler_to_zero_terminal_snr"),
    )
    if settings.flag("force_v_prediction"):
        origin = settings.origin("force_v_prediction")
        common.put_model_key(draft, "prediction_type", "v_prediction", origin)
    onetrainer_timesteps.put_timesteps(settings, draft)
    _put_masks(settings, draft)


def _first(settings: Settings, draft: Draft) -> Any:
    """Return the first of resolutions that are listed in one text."""
    value = settings.raw("resolution")
    if not isinstance(value, str) or "," not in value:
        return value
    first, _, others = value.partition(",")
    draft.left("resolution", others, "one resolution a run: the first one's")
    return first


def _put_loss(settings: Settings, draft: Draft) -> None:
    strengths = {
        "mse": settings.number("mse_strength"),
        "l1": settings.number("mae_strength"),
        "huber": settings.number("huber_strength"),
    }
    given = {name: strength for name, strength in strengths.items() if strength}
    if given:
        name = max(given, key=lambda each: given[each])
        keys = {"mse": "mse_strength", "l1": "mae_strength", "huber": "huber_strength"}
        draft.put("loss.name", name, settings.origin(keys[name]))
        for other in given:
            if other != name:
                draft.left(*settings.origin(keys[other]), f"one loss a run: {name}, the strongest")
        if name == "huber":
            draft.put("loss.delta", settings.number("huber_delta"), settings.origin("huber_delta"))
    settings.leave(["huber_delta"], "of the Huber loss, which is not used")


def _put_masks(settings: Settings, draft: Draft) -> None:
    if not settings.flag("masked_training"):
        settings.leave(["unmasked_weight", "masked_prior_preservation_weight"], "masks are off")
        return
    draft.left(*settings.origin("masked_training"), _MASKS)
    for theirs, ours in (
        ("unmasked_weight", "data.mask.floor"),
        ("masked_prior_preservation_weight", "data.mask.keep_outside"),
    ):
        draft.put(ours, settings.number(theirs), settings.origin(theirs))


def _read_length(settings: Settings, draft: Draft, samples: int | None) -> int | None:
    epochs = settings.number("epochs")
    per_epoch = None
    if epochs is not None:
        origin = settings.origin("epochs")
        per_epoch = training.put_steps_of_epochs(draft, epochs, samples, origin)
    schedule = settings.text("learning_rate_scheduler")
    cycles = settings.number("learning_rate_cycles")
    options: dict[str, Any] = {}
    if schedule and "RESTARTS" in schedule:
        options["cycles"] = None if cycles is None else int(cycles)
    if factor := settings.number("learning_rate_min_factor"):
        options["final_factor"] = factor
    settings.leave(["learning_rate_cycles"], "of cosine with restarts alone")
    training.put_schedule(draft, schedule, options, settings.origin("learning_rate_scheduler"))
    warmup = settings.number("learning_rate_warmup_steps")
    training.put_warmup(draft, warmup, settings.origin("learning_rate_warmup_steps"))
    return per_epoch


def _read_units(settings: Settings, draft: Draft, per_epoch: int | None) -> None:
    for key, unit_key, target in (
        ("sample_after", "sample_after_unit", "sample.every"),
        ("save_every", "save_every_unit", "save.every"),
        ("save_after", "save_after_unit", "save.every"),
    ):
        amount, unit = settings.number(key), settings.text(unit_key)
        if not amount or unit in (None, "NEVER"):
            continue
        if unit == "STEP":
            draft.put(target, int(amount), settings.origin(key))
        elif unit == "EPOCH" and per_epoch:
            note = f"{amount:g} epochs of {per_epoch} steps"
            draft.put(target, max(1, int(amount * per_epoch)), settings.origin(key), note)
        else:
            draft.left(key, f"{amount:g} {unit}", f"{target} counts steps")
