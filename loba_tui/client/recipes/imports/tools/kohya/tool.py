"""kohya's sd-scripts, and the configurations that kohya_ss and LoRA_Easy_Training_Scripts save.

Settings are flags, the same words in a TOML file (whose sections mean nothing), or the graphical
program's JSON. The data set is named by flags, or by a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loba_tui.client.recipes.imports import common, training
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.families import FlowFamily
from loba_tui.client.recipes.imports.settings import Settings
from loba_tui.client.recipes.imports.sources import ForeignFile, read_if_there
from loba_tui.client.recipes.imports.tools import concept_sliders
from loba_tui.client.recipes.imports.tools.kohya import data, flow_models, times
from loba_tui.client.recipes.imports.tools.kohya.network import put_network
from loba_tui.core.errors import RecipeError

NAME = "kohya sd-scripts"

_MARKS = frozenset(
    ["network_module", "network_dim", "train_data_dir", "dataset_config", "learning_rate",
     "output_name", "LoRA_type", "max_train_steps", "max_train_epochs", "unet_lr", "dit"]
)  # fmt: skip
_OTHERS = frozenset(["model_family", "data_backend_config", "instance_data_dir"])
_MODEL_TYPES = ("flux", "chroma")
_ATTENTION = "base_model.attention: auto takes the fastest that is there"
_REASONS = {
    **dict.fromkeys(("output_dir", "logging_dir", "save_model_as"), common.OUT_DIR),
    **dict.fromkeys(("xformers", "sdpa", "mem_eff_attn"), _ATTENTION),
    **dict.fromkeys(("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"),
                    "prompts are always encoded once, before training"),
    **dict.fromkeys(("log_with", "log_prefix", "wandb_run_name", "log_tracker_name",
                     "log_tracker_config", "log_config"), common.NO_TRACKER),
    **dict.fromkeys(("huggingface_repo_id", "huggingface_repo_type", "huggingface_path_in_repo",
                     "huggingface_repo_visibility", "async_upload"), common.NO_UPLOAD),
    **dict.fromkeys(("v2", "sdxl", "sdxl_checkbox"), "the family is told from the model itself"),
    **dict.fromkeys(("max_data_loader_n_workers", "persistent_data_loader_workers", "lowram",
                     "highvram", "vae_batch_size", "num_cpu_threads_per_process", "torch_compile"),
                    common.MACHINE),
    **dict.fromkeys(("fp8_base", "fp8_base_unet", "full_fp16", "full_bf16"),
                    "the frozen model is held in base_model.dtype"),
    "save_precision": "adapters are written in 32 bits; loba export can write others",
    "clip_skip": "prompts are encoded as the model's own pipeline does",
    "network_dropout": common.NO_DROPOUT,
    "no_half_vae": "the VAE's precision is its own",
    "scale_weight_norms": "there is no limit of weights here; train.max_grad_norm limits steps",
    "save_state": "checkpoints have the whole state; loba run --resume RUN goes on",
    "training_comment": "a model card is written by loba push",
    "adaptive_noise_scale": "offset noise has one strength here",
    "sample_at_first": "the first strip is drawn at sample.every steps",
    "conditioning_data_dir": "masks are masks: FOLDER in each of data.sources",
}  # fmt: skip


class Kohya:
    """Reads settings, data sets, folders and lists of captions."""

    name = NAME

    def evidence(self, file: ForeignFile) -> str:
        """Return the keys that are kohya's own."""
        if file.shell is not None:
            given = file.shell.flags()
            flags = set(given)
            ours = any(s.endswith(_SCRIPTS) for s in file.shell.scripts)
            is_set = "pretrained_model_name_or_path" in flags or bool(flags & _MARKS)
            return "flags" if (ours or is_set) and not _is_others(given) else ""
        if data.is_data_set(file):
            return "datasets.subsets"
        if data.is_caption_list(file):
            return "captions by image"
        values = flat(file)
        named = "pretrained_model_name_or_path" in values or len(_MARKS & set(values)) >= 2
        alone = set(values) <= _MARKS | {"pretrained_model_name_or_path"}
        if named and (set(values) & _MARKS or alone) and not _is_others(values):
            return "pretrained_model_name_or_path, network_module"
        return ""

    def also_reads(self, file: ForeignFile) -> bool:
        """Say whether a file has flags, or prompts for train_leco.py."""
        return file.shell is not None or concept_sliders.is_prompts(file)

    def read(self, files: Sequence[ForeignFile]) -> Draft:
        """Return the recipe of settings, with their data set."""
        draft = Draft(NAME)
        values: dict[str, Any] = {}
        config: ForeignFile | None = None
        scripts: list[str] = []
        for file in files:
            if file.shell is not None:
                scripts += file.shell.scripts
                values |= file.shell.flags()
            elif file.mapping and not (data.is_data_set(file) or data.is_caption_list(file)):
                values |= flat(file)
                config = file
        config = config or next((file for file in files if file.path is not None), None)
        values = _with_file(values, config, draft)
        settings = Settings(values, draft)
        _check_scripts(scripts)
        _read_model(settings, draft, flow_models.family_of(settings, scripts))
        put_network(settings, draft)
        _read_prompts(settings, draft)
        _read_training(settings, draft)
        if settings.text("prompts_file"):
            _read_leco(settings, draft, files, config)
            steps = None
        else:
            samples = data.read_data(settings, draft, files, config)
            _read_validation(settings, draft)
            steps = times.read_length(settings, draft, samples)
        times.read_schedule(settings, draft)
        times.read_samples(settings, draft, files, config, steps)
        times.read_saves(settings, draft, steps)
        if draft.family is not None:
            flow_models.put_flow_timesteps(settings, draft, draft.family)
        settings.leave_rest({**_REASONS, **flow_models.REASONS})
        return draft


_WHOLE = ("flux_train.py", "sd3_train.py", "qwen_image_train.py", "zimage_train.py")
_SCRIPTS = (
    "train_network.py", "sdxl_train_network.py", "train_leco.py", "flux_train_network.py",
    "sd3_train_network.py", "lumina_train_network.py", "sdxl_train.py", "train_db.py",
    "fine_tune.py", "hunyuan_image_train_network.py", "anima_train_network.py",
    *flow_models.MUSUBI, *_WHOLE,
)  # fmt: skip


def flat(file: ForeignFile) -> dict[str, Any]:
    """Return settings without their sections, which are for the eye alone there."""
    found: dict[str, Any] = {}
    for key, value in file.mapping.items():
        if isinstance(value, dict):
            # LoRA_Easy_Training_Scripts has a section `args` within each.
            inner = value.get("args")
            found |= inner if isinstance(inner, dict) else value
        else:
            found[key] = value
    return found


def _is_others(values: Mapping[str, Any]) -> bool:
    """Say whether settings are another tool's: one's `model_type` is lora, kohya's is flux."""
    return bool(_OTHERS & set(values)) or values.get("model_type", "flux") not in _MODEL_TYPES


def _check_scripts(scripts: Sequence[str]) -> None:
    for script in scripts:
        if script in ("sdxl_train.py", "fine_tune.py", "train_db.py", *_WHOLE):
            common.refuse_kind("the whole model", NAME)
        if "textual_inversion" in script or "control_net" in script:
            common.refuse_kind(script, NAME)


def _with_file(values: dict[str, Any], config: ForeignFile | None, draft: Draft) -> dict[str, Any]:
    """Return the settings with those of `--config_file`; flags count before it."""
    named = values.pop("config_file", None)
    if not isinstance(named, str):
        return values
    found = read_if_there(named, config.path if config is not None else None, draft)
    if found is None or not found.mapping:
        draft.left("config_file", named, "not here to read: name it too")
        return values
    return flat(found) | values


def _read_model(settings: Settings, draft: Draft, family: FlowFamily | None) -> None:
    keys = ("pretrained_model_name_or_path", "dit")
    version = settings.text("model_version") or ""
    common.put_model(
        draft,
        settings.text(*keys),
        settings.origin(*keys),
        family,
        hint=version,
        is_file="dit" in settings,
    )
    if "base_model.id" not in draft.values:
        raise RecipeError(
            "These settings of kohya sd-scripts name no model: pretrained_model_name_or_path.",
            "Add it: loba recipe import FILE… -- --pretrained_model_name_or_path MODEL",
        )
    common.put_model_key(draft, "vae", settings.text("vae"), settings.origin("vae"))
    if settings.flag("v_parameterization"):
        origin = settings.origin("v_parameterization")
        common.put_model_key(draft, "prediction_type", "v_prediction", origin)
    common.put_model_key(
        draft, "zero_snr", settings.flag("zero_terminal_snr"), settings.origin("zero_terminal_snr")
    )
    common.put_dtype(draft, settings.text("mixed_precision"), settings.origin("mixed_precision"))
    common.put_name(draft, settings.text("output_name"), settings.origin("output_name"))
    key = "gradient_checkpointing"
    common.carry(settings, draft, {key: "base_model.gradient_checkpointing"})
    if (swapped := settings.whole("blocks_to_swap") or 0) > 0:
        origin = settings.origin("blocks_to_swap")
        draft.put("base_model.offload", "blocks", origin)
        draft.put("base_model.blocks_on_host", swapped, origin)


def _read_prompts(settings: Settings, draft: Draft) -> None:
    """Put how prompts are read: in chunks where they may be long, with weights or without."""
    length = settings.whole("max_token_length")
    if length in (150, 225):
        note = f"theirs reads {length} tokens at most; here there is no limit"
        draft.put("base_model.long_prompts", "chunks", settings.origin("max_token_length"), note)
    elif length not in (None, 75):
        draft.left(*settings.origin("max_token_length"), "expected 75, 150 or 225")
    if settings.flag("weighted_captions"):
        draft.put("base_model.prompt_weights", True, settings.origin("weighted_captions"))


def _read_training(settings: Settings, draft: Draft) -> None:
    training.put_batch(draft, settings, "train_batch_size")
    key = "gradient_accumulation_steps"
    common.carry(settings, draft, {key: "train.gradient_accumulation", "seed": "train.seed"})
    norm = settings.number("max_grad_norm")
    if norm is not None and norm > 0:
        draft.put("train.max_grad_norm", norm, settings.origin("max_grad_norm"))
    elif norm == 0:
        draft.left("max_grad_norm", 0.0, "0 is off there; write train.max_grad_norm: null for that")
    common.put_resolution(
        draft, settings.raw("resolution", "max_resolution"), settings.origin("resolution")
    )
    training.put_rate(draft, settings, "unet_lr", "learning_rate")
    _put_optimizer(settings, draft)
    training.put_min_snr(draft, settings, "min_snr_gamma")
    if settings.flag("debiased_estimation_loss"):
        origin = settings.origin("debiased_estimation_loss")
        if draft.family is None:
            draft.put("loss.weighting", {"name": "debiased"}, origin)
        else:
            draft.left(*origin, training.NO_SNR)
    training.put_noise(
        settings, draft, {"offset": "noise_offset", "perturbation": "ip_noise_gamma"}
    )
    levels = settings.whole("multires_noise_iterations")
    discount = settings.number("multires_noise_discount")
    if levels:
        item = {
            "name": "pyramid",
            "levels": levels,
            "discount": 0.3 if discount is None else discount,
        }
        draft.add("noise", item, settings.origin("multires_noise_iterations"))
    settings.leave(["noise_offset_type"], "noise is what noise_offset and multires_noise say")
    _put_loss(settings, draft)
    if draft.family is None:
        _put_range(settings, draft)


def _put_range(settings: Settings, draft: Draft) -> None:
    low, high = settings.number("min_timestep"), settings.number("max_timestep")
    for key, value in (("low", low), ("high", high)):
        if value is not None:
            note = f"{value:g} of 1000"
            origin = settings.origin("min_timestep" if key == "low" else "max_timestep")
            draft.put(f"scheduler.timestep.{key}", value / 1000, origin, note)


def _read_validation(settings: Settings, draft: Draft) -> None:
    """Put which images are held out, and how often the loss on them is evaluated."""
    share = settings.number("validation_split")
    if not share:
        keys = ("validation_split", "validation_seed", "validate_every_n_steps")
        settings.leave(keys, "nothing is held out without validation_split")
        return
    note = "which images these are follows from their pixels here"
    draft.put("validation.share", share, settings.origin("validation_split"), note)
    for theirs, ours in (("validation_seed", "seed"), ("validate_every_n_steps", "every")):
        draft.put(f"validation.{ours}", settings.whole(theirs), settings.origin(theirs))
    settings.leave(["max_validation_steps"], "validation.most is how many images are evaluated")
    settings.leave(["validate_every_n_epochs"], "write validation.every, in steps")


def _put_optimizer(settings: Settings, draft: Draft) -> None:
    words = settings.raw("optimizer_args")
    options = training.optimizer_options(training.key_values(words), draft, "optimizer_args ")
    name, origin = settings.text("optimizer_type", "optimizer"), settings.origin("optimizer_type")
    if settings.flag("use_8bit_adam"):
        name, origin = "AdamW8bit", settings.origin("use_8bit_adam")
    if settings.flag("use_lion_optimizer"):
        name, origin = "Lion", settings.origin("use_lion_optimizer")
    training.put_optimizer(draft, name, options, origin)


def _put_loss(settings: Settings, draft: Draft) -> None:
    training.put_loss(draft, settings, "loss_type")
    kind = draft.values.get("loss.name")
    if kind == "huber":
        draft.note("loss.name", "theirs is the pseudo-Huber loss, smooth between its two parts")
        draft.put("loss.delta", settings.number("huber_c"), settings.origin("huber_c"))
        common.carry(settings, draft, {"huber_schedule": "loss.schedule"})
    elif kind == "smooth_l1":
        draft.put("loss.beta", settings.number("huber_c"), settings.origin("huber_c"))
    settings.leave(["huber_c", "huber_schedule", "huber_scale"], "the loss is not Huber's")


def _read_leco(
    settings: Settings, draft: Draft, files: Sequence[ForeignFile], config: ForeignFile | None
) -> None:
    wanted = settings.text("prompts_file") or ""
    file = next((each for each in files if concept_sliders.is_prompts(each)), None)
    file = file or read_if_there(wanted, config.path if config is not None else None, draft)
    if file is None or not concept_sliders.is_prompts(file):
        raise RecipeError(
            f"prompts_file: {wanted} is not here.", "Name that file too: loba recipe import FILE…"
        )
    batch = draft.values.get("train.batch_size")
    concept_sliders.read_prompts(concept_sliders.concepts_of(file), draft, wanted)
    draft.put("train.batch_size", batch)
    steps = settings.whole("max_train_steps")
    draft.put("train.steps", steps, settings.origin("max_train_steps"))
    rollout = settings.whole("max_denoising_steps")
    draft.put("method.rollout_steps", rollout, settings.origin("max_denoising_steps"))
