"""Flow-matching models of sd-scripts and musubi-tuner: family, layers and timesteps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from loba_tui.client.recipes.imports import common, families, flow
from loba_tui.client.recipes.imports.common import Origin
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.families import FlowFamily
from loba_tui.client.recipes.imports.settings import Settings

TOOL = "kohya sd-scripts"
MUSUBI = (
    "zimage_train_network.py", "qwen_image_train_network.py", "flux_2_train_network.py",
    "flux_kontext_train_network.py", "wan_train_network.py", "fpack_train_network.py",
    "hv_train_network.py", "hv_1_5_train_network.py", "kandinsky5_train_network.py",
    "hidream_o1_train_network.py", "ideogram4_train_network.py", "krea2_train_network.py",
)  # fmt: skip
"""Scripts of musubi-tuner, whose flags are those of sd-scripts but for the model's."""

_ENCODER = "text encoders are those of the model's folder"
_MEMORY = "base_model.offload: blocks keeps the denoiser's blocks in main memory"
REASONS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("clip_l", "clip_g", "t5xxl", "text_encoder", "text_encoder1",
                         "text_encoder2"), _ENCODER),
        "ae": "the VAE is that of the model's folder",
        **dict.fromkeys(("t5xxl_max_token_length", "apply_t5_attn_mask", "apply_lg_attn_mask"),
                        "prompts are encoded as the model's own pipeline does"),
        "cpu_offload_checkpointing": _MEMORY,
        **dict.fromkeys(("fp8_scaled", "fp8_llm", "fp8_vl", "fp8_t5", "fp8_text_encoder",
                         "nvfp4"), "models are not quantized here"),
        "model_version": "which model it is is base_model.id",
    }
)  # fmt: skip
_SHIFTS: Mapping[str, flow.Points] = MappingProxyType(
    {
        "flux_shift": families.FLUX.shifts,
        "flux2_shift": families.FLUX_2.shifts,
        "qwen_shift": families.QWEN_IMAGE.shifts,
    }
)


def family_of(settings: Settings, scripts: Sequence[str]) -> FlowFamily | None:
    """Return the flow-matching family that is trained; None for a UNet.

    Raises:
        RecipeError: A family that cannot be trained here, or a control net.
    """
    found: FlowFamily | None = None
    # A network may be of FLUX where the model is a Chroma: all words have to be looked at.
    keys = ("network_module", "LoRA_type", "model_type")
    words = [*scripts, *(str(settings.origin(key)[1] or "") for key in keys)]
    boxes = ("flux1_checkbox", "sd3_checkbox", "flux_checkbox")
    words += [key for key in boxes if settings.flag(key)]
    version = str(settings.origin("model_version")[1] or "")
    if any("flux_2" in word for word in words):
        words.append(f"flux_2-{version or 'dev'}")  # dev is its default
    if any("qwen" in word for word in words):
        words.append(f"qwen-{version}")
    if settings.flag("edit", "edit_plus") and any("qwen" in word for word in words):
        words.append("qwen-edit")
    for word in words:
        if "control_net" in word:
            common.refuse_kind(word, TOOL)
        found = families.of_kind(word, TOOL) or found
    if found is not None:
        settings.raw("model_type")
    return found


def put_flow_layers(
    draft: Draft, family: FlowFamily, module: str, of_unets: Sequence[str], origin: Origin
) -> None:
    """Put the layers that a network module trains.

    Args:
        of_unets: Those that it trains of a UNet, with convolutions where it trains them all.
    """
    layers = family.layers
    if module.startswith("lycoris") and "convolution" not in of_unets:
        layers = tuple(of_unets)
    elif family in (families.Z_IMAGE, families.QWEN_IMAGE):
        # musubi-tuner leaves modulation out; sd-scripts, which trains the others, does not.
        layers = tuple(each for each in layers if each != "modulation")
    common.put_flow_layers(draft, family, layers, origin, "the layers of blocks, as theirs has it")


def put_flow_timesteps(settings: Settings, draft: Draft, family: FlowFamily) -> None:
    """Put how timesteps are drawn."""
    kind, origin = settings.text("timestep_sampling"), settings.origin("timestep_sampling")
    shift = settings.number("discrete_flow_shift")
    scale = settings.number("sigmoid_scale")
    is_musubi = "dit" in settings
    usual_shift = 1.0 if is_musubi else 3.0
    if family is families.SD_3:
        flow.put_scheme(settings, draft, settings.number("training_shift") or 1.0, downwards=False)
    elif kind in (None, "sigma"):
        shift = usual_shift if shift is None else shift
        # sd-scripts weighs FLUX's loss with sigma_scaled alone.
        prediction = settings.text("model_prediction_type") or "sigma_scaled"
        weighs = is_musubi or prediction == "sigma_scaled"
        flow.put_scheme(settings, draft, shift, downwards=True, weighs=weighs)
    elif kind == "uniform":
        flow.put_density(draft, "uniform", {}, origin)
    elif kind == "sigmoid":
        note = "the sigmoid of normal numbers"
        flow.put_density(draft, "logit_normal", {"std": scale}, origin, note)
    elif kind == "shift" or kind in _SHIFTS:
        if kind in _SHIFTS:
            shift = flow.shift_of_size(draft, _SHIFTS[kind])
        options = {"std": scale, "shift": usual_shift if shift is None else shift}
        flow.put_density(draft, "logit_normal", options, origin)
    else:
        draft.left(*origin, "scheduler.timestep has densities of its own: loba plugins ls")
    if kind not in (None, "sigma"):
        flow.tell_of_loss_scheme(settings, draft)
    _put_range(settings, draft)
    _tell_of_loss(settings, draft, family, is_musubi=is_musubi)
    flow.tell_of_guidance(settings, draft, "guidance_scale")


def _put_range(settings: Settings, draft: Draft) -> None:
    name = draft.values.get("scheduler.timestep.name", "uniform")
    for key, option in (("min_timestep", "low"), ("max_timestep", "high")):
        value, origin = settings.number(key), settings.origin(key)
        if value is not None and name == "uniform":
            draft.put(f"scheduler.timestep.{option}", value / 1000, origin, f"{value:g} of 1000")
        elif value is not None:
            draft.left(*origin, "scheduler.timestep: uniform alone has a range")


def _tell_of_loss(settings: Settings, draft: Draft, family: FlowFamily, *, is_musubi: bool) -> None:
    """Tell of a loss that is not of the velocity itself."""
    kind, origin = settings.text("model_prediction_type"), settings.origin("model_prediction_type")
    if family is not families.FLUX or is_musubi or kind == "raw":
        return
    reason = "the model's own prediction, the velocity, is compared here, which is their raw"
    draft.left(origin[0], kind or "(not given: sigma_scaled)", reason)
