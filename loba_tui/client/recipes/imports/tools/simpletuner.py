"""SimpleTuner (bghira/SimpleTuner): config.json or config.env, and multidatabackend.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loba_tui.client.recipes.imports import common, families, names, prompts, training
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.families import FlowFamily
from loba_tui.client.recipes.imports.settings import Settings
from loba_tui.client.recipes.imports.shell import Shell
from loba_tui.client.recipes.imports.sources import ForeignFile, read_if_there
from loba_tui.client.recipes.imports.tools import simpletuner_flow
from loba_tui.client.recipes.imports.tools.simpletuner_data import (
    is_backends,
    put_resolution,
    read_backends,
)

NAME = "SimpleTuner"

_MARKS = frozenset(
    ["model_family", "data_backend_config", "lycoris_config", "aspect_bucket_rounding"]
)
_FAMILIES = ("sdxl", "sd1x", "sd2x", "legacy", "sd15", "sd21")
_VARIABLES = {
    "MODEL_NAME": "pretrained_model_name_or_path",
    "MODEL_TYPE": "model_type",
    "MODEL_FAMILY": "model_family",
    "DATALOADER_CONFIG": "data_backend_config",
    "LEARNING_RATE": "learning_rate",
    "MAX_NUM_STEPS": "max_train_steps",
    "NUM_EPOCHS": "num_train_epochs",
    "TRAIN_BATCH_SIZE": "train_batch_size",
    "GRADIENT_ACCUMULATION_STEPS": "gradient_accumulation_steps",
    "CHECKPOINTING_STEPS": "checkpointing_steps",
    "CHECKPOINTING_LIMIT": "checkpoints_total_limit",
    "RESUME_CHECKPOINT": "resume_from_checkpoint",
    "LR_SCHEDULE": "lr_scheduler",
    "LR_WARMUP_STEPS": "lr_warmup_steps",
    "TRAINING_SEED": "seed",
    "MIN_SNR_GAMMA": "snr_gamma",
    "USE_DORA": "use_dora",
    "USE_GRADIENT_CHECKPOINTING": "gradient_checkpointing",
    "HUB_MODEL_NAME": "hub_model_id",
    "INSTANCE_PROMPT": "instance_prompt",
}
"""Names in config.env that are no flag's in capitals."""
_LEGACY_FLAGS = ("STABLE_DIFFUSION_3", "PIXART_SIGMA", "KOLORS", "FLUX", "HUNYUAN_DIT")
"""Names in config.env that say the family, before there was `MODEL_FAMILY`."""
_REASONS = {
    "output_dir": common.OUT_DIR,
    **dict.fromkeys(("push_to_hub", "hub_model_id", "push_checkpoints_to_hub"), common.NO_UPLOAD),
    **dict.fromkeys(("report_to", "tracker_project_name", "tracker_run_name"), common.NO_TRACKER),
    **dict.fromkeys(("disable_benchmark", "validation_torch_compile", "allow_tf32",
                     "attention_mechanism"), common.MACHINE),
    "resume_from_checkpoint": "loba run --resume RUN goes on with a run",
    "minimum_image_size": "images that are too small are enlarged",
    "aspect_bucket_rounding": "buckets are by data.buckets.step",
    "validation_guidance_rescale": "pictures are drawn without rescaling",
    "lora_dropout": common.NO_DROPOUT,
    "hub_token": common.NO_UPLOAD,
}  # fmt: skip
_NUMBERS = {
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "gradient_checkpointing": "base_model.gradient_checkpointing",
    "max_grad_norm": "train.max_grad_norm",
    "checkpointing_steps": "save.every",
    "checkpoint_step_interval": "save.every",
    "caption_dropout_probability": "data.captions.dropout",
}
_VALIDATION = {
    "validation_steps": "sample.every",
    "validation_step_interval": "sample.every",
    "validation_negative_prompt": "sample.negative_prompt",
    "validation_seed": "sample.seeds",
    "validation_guidance": "sample.guidance_scale",
    "validation_num_inference_steps": "sample.steps",
}


class SimpleTuner:
    """Reads settings, their data sets and LyCORIS options."""

    name = NAME

    def evidence(self, file: ForeignFile) -> str:
        """Return the keys that are SimpleTuner's own."""
        if file.shell is not None:
            set_there = set(file.shell.variables)
            if {"MODEL_NAME", "MODEL_TYPE"} <= set_there or "DATALOADER_CONFIG" in set_there:
                return "MODEL_NAME, DATALOADER_CONFIG"
            flags = file.shell.flags()
            return "flags" if "data_backend_config" in flags else ""
        if _MARKS & set(_plain(file.mapping)):
            return "model_family, data_backend_config"
        if is_backends(file):
            return "instance_data_dir"
        is_lycoris = "algo" in file.mapping and "linear_dim" in file.mapping
        return "lycoris_config" if is_lycoris else ""

    def also_reads(self, file: ForeignFile) -> bool:
        """Say whether a file has flags."""
        return file.shell is not None

    def read(self, files: Sequence[ForeignFile]) -> Draft:
        """Return the recipe of settings, with their data sets."""
        draft = Draft(NAME)
        config = common.main_file(
            files,
            _is_config,
            others="data sets or options of SimpleTuner",
            example="config.json multidatabackend.json",
        )
        values = _plain(config.mapping)
        for file in files:
            if file.shell is not None:
                values |= _of_shell(file.shell)
        settings = Settings(values, draft)
        family = simpletuner_flow.family_of(settings, _check_kind(settings))
        model = settings.text("pretrained_model_name_or_path")
        origin = settings.origin("pretrained_model_name_or_path")
        if not model and family is not None:
            model, origin = simpletuner_flow.model_of(settings, draft, family)
        if not model and (settings.text("model_family") or "") == "sdxl":
            note = "not given: what SimpleTuner takes for sdxl"
            draft.put("base_model.id", "stabilityai/stable-diffusion-xl-base-1.0", None, note)
        common.put_model(draft, model, origin, family)
        _read_adapter(settings, draft, files, config)
        _read_training(settings, draft)
        samples = read_backends(settings, draft, files, config)
        _read_length(settings, draft, samples)
        _read_validation(settings, draft)
        if draft.family is not None:
            simpletuner_flow.put_flow_timesteps(settings, draft, draft.family)
        settings.leave_rest(_REASONS)
        return draft


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).removeprefix("--"): value for key, value in values.items()}


def _is_config(file: ForeignFile) -> bool:
    if file.shell is not None:
        return True
    return bool(_MARKS & set(_plain(file.mapping)))


def _of_shell(shell: Shell) -> dict[str, Any]:
    """Return the settings of config.env, with those in its TRAINER_EXTRA_ARGS."""
    values: dict[str, Any] = {}
    variables = shell.variables
    for name in _LEGACY_FLAGS:
        if variables.pop(name, "").lower() == "true":
            values["model_family"] = name.lower()
    extra = variables.pop("TRAINER_EXTRA_ARGS", "")
    for name, value in variables.items():
        values[_VARIABLES.get(name, name.lower())] = value
    return values | Shell((), tuple(extra.split())).flags() | shell.flags()


def _check_kind(settings: Settings) -> FlowFamily | None:
    word = settings.text("model_family")
    family = families.of_kind_or(word, _FAMILIES, NAME) if word else None
    kind = settings.text("model_type") or "full"
    if kind.lower() != "lora":
        common.refuse_kind("the whole model" if kind == "full" else kind, NAME)
    if settings.flag("controlnet"):
        common.refuse_kind("a ControlNet", NAME)
    return family


def _read_adapter(
    settings: Settings, draft: Draft, files: Sequence[ForeignFile], config: ForeignFile
) -> None:
    kind = (settings.text("lora_type") or "standard").lower()
    common.put_first_weights(draft, settings, "init_lora")
    if kind == "lycoris":
        _read_lycoris(settings, draft, files, config)
        return
    if kind != "standard":
        draft.left(*settings.origin("lora_type"), "expected standard or lycoris")
    is_dora = settings.flag("use_dora")
    name_origin = settings.origin("use_dora" if is_dora else "lora_type")
    draft.put("adapter.name", "dora" if is_dora else "lora", name_origin)
    rank, alpha = settings.whole("lora_rank"), settings.number("lora_alpha")
    origins = [settings.origin("lora_rank"), settings.origin("lora_alpha")]
    common.put_rank(draft, 16 if rank is None else rank, alpha, origins, "rank")
    if rank is None:
        draft.note("adapter.rank", "not given: 16")
    if draft.family is not None:
        simpletuner_flow.put_layers(settings, draft, draft.family)
        return
    layers = ("cross_attention", "self_attention")
    common.put_layers(draft, layers, None, "theirs trains to_q, to_k, to_v and to_out")


def _read_lycoris(
    settings: Settings, draft: Draft, files: Sequence[ForeignFile], config: ForeignFile
) -> None:
    wanted = settings.text("lycoris_config")
    file = next((each for each in files if "algo" in each.mapping), None)
    file = file or (read_if_there(wanted, config.path, draft) if wanted else None)
    if file is None or not file.mapping:
        draft.left("lycoris_config", wanted, "not here to read: name it too. lokr stands in")
        draft.put("adapter.name", "lokr")
        return
    options = Settings(file.mapping, draft, "lycoris_config: ")
    algorithm = (options.text("algo") or "lora").lower()
    adapters = {
        "lora": "locon",
        "locon": "locon",
        "loha": "loha",
        "lokr": "lokr",
        "oft": "oft",
        "diag-oft": "oft",
        "dora": "dora",
    }
    if algorithm not in adapters:
        draft.left(*options.origin("algo"), "adapters: lora, locon, loha, lokr, dora, oft")
    name = adapters.get(algorithm, "lokr")
    rank, alpha = options.whole("linear_dim"), options.number("linear_alpha")
    preset = options.part("apply_preset")
    targets = [str(each) for each in preset.raw("target_module") or ()]
    layers = {"cross_attention", "self_attention"}
    if "FeedForward" in targets or not targets:
        layers.add("feed_forward")
    if name == "locon" and not targets:
        layers |= {"projection", "convolution"}
    name = "lora" if name == "locon" and "convolution" not in layers else name
    draft.put("adapter.name", name, options.origin("algo"))
    origins = [options.origin("linear_dim"), options.origin("linear_alpha")]
    common.put_rank(draft, rank, alpha, origins, "1")
    if rank is not None and rank >= 1000 and name == "lokr":
        note = "so large a rank stands for whole matrices there, and here"
        draft.note("adapter.rank", note)
    if name == "lokr":
        common.put_factor(draft, options, "factor")
    if draft.family is not None:
        common.put_flow_layers(draft, draft.family, layers, preset.origin("target_module"))
    else:
        common.put_layers(draft, layers, preset.origin("target_module"))
    preset.leave_rest(dict.fromkeys(preset.keys(), "all layers have the same options here"))
    options.leave(["multiplier"], "an adapter's strength is given when it is used")
    options.leave_rest()


def _read_training(settings: Settings, draft: Draft) -> None:
    draft.put("optimizer.lr", settings.number("learning_rate"), settings.origin("learning_rate"))
    words = training.key_values(str(settings.raw("optimizer_config") or "").replace(",", " "))
    options = training.optimizer_options(words, draft, "optimizer_config ")
    training.put_optimizer(draft, settings.text("optimizer"), options, settings.origin("optimizer"))
    training.put_batch(draft, settings, "train_batch_size")
    common.carry(settings, draft, _NUMBERS)
    seed = settings.whole("seed")
    if seed == -1:
        draft.left("seed", seed, "-1 is any seed there; here a run can always be made again")
    else:
        draft.put("train.seed", seed, settings.origin("seed"))
    common.put_dtype(draft, settings.text("mixed_precision"), settings.origin("mixed_precision"))
    if settings.text("base_model_precision") not in (None, "no_change", "bf16", "fp32"):
        draft.left(*settings.origin("base_model_precision"), "models are not quantized here")
    training.put_min_snr(draft, settings, "snr_gamma")
    if settings.flag("offset_noise") is not False:
        training.put_noise(settings, draft, {"offset": "noise_offset"})
    training.put_noise(settings, draft, {"perturbation": "input_perturbation"})
    training.put_loss(draft, settings, "loss_type")
    if settings.flag("use_ema"):
        draft.put(
            "train.ema.decay", settings.number("ema_decay") or 0.995, settings.origin("ema_decay")
        )
    settings.leave(["ema_decay"], "there is no average without use_ema")
    prediction = settings.text("prediction_type")
    origin = settings.origin("prediction_type")
    if prediction in ("flow_matching", "flow"):
        training.put_noise_scheduler(draft, "flow", origin, "scheduler.noise")
    else:
        common.put_model_key(draft, "prediction_type", prediction, origin)
    common.put_model_key(
        draft,
        "zero_snr",
        settings.flag("rescale_betas_zero_snr"),
        settings.origin("rescale_betas_zero_snr"),
    )
    vae = settings.text("pretrained_vae_model_name_or_path")
    origin = settings.origin("pretrained_vae_model_name_or_path")
    common.put_model_key(draft, "vae", vae, origin)
    common.put_name(draft, settings.text("tracker_run_name"), settings.origin("tracker_run_name"))
    common.put_kept(draft, settings, "checkpoints_total_limit")
    put_resolution(settings, draft, "resolution", "resolution_type")


def _read_length(settings: Settings, draft: Draft, samples: int | None) -> None:
    steps, epochs = settings.whole("max_train_steps"), settings.number("num_train_epochs")
    if steps:
        draft.put("train.steps", steps, settings.origin("max_train_steps"))
    elif epochs:
        origin = settings.origin("num_train_epochs")
        training.put_steps_of_epochs(draft, epochs, samples, origin)
    schedule = settings.text("lr_scheduler")
    options: dict[str, Any] = {}
    if names.folded(schedule or "") == "polynomial":
        options["power"] = settings.number("lr_power") or 0.8
    training.put_schedule(draft, schedule, options, settings.origin("lr_scheduler"))
    if names.folded(schedule or "") != "constant":
        warmup = settings.number("lr_warmup_steps")
        training.put_warmup(draft, warmup, settings.origin("lr_warmup_steps"))
    settings.leave(["lr_warmup_steps"], "constant has no warm-up there")


def _read_validation(settings: Settings, draft: Draft) -> None:
    common.carry(settings, draft, _VALIDATION)
    text = settings.text("validation_prompt") or ""
    note = "" if text else "a prompt to draw is needed, and theirs has none: write your own"
    draft.put("sample.prompts", [text or "a photo"], settings.origin("validation_prompt"), note)
    prompts.scale_pair(draft, None, settings.origin("validation_prompt"))
    settings.leave(["validation_resolution"], "pictures are drawn at train.resolution")
    scheduler = settings.text("validation_noise_scheduler")
    training.put_noise_scheduler(
        draft, scheduler, settings.origin("validation_noise_scheduler"), "sample.noise"
    )
