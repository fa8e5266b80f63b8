"""kohya's `network_module`, `network_args` and dimensions as an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loba_tui.client.recipes.imports import common, names, training
from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.settings import Settings, as_number
from loba_tui.client.recipes.imports.tools.kohya import flow_models

_ALGORITHMS = {
    "lora": "locon",
    "locon": "locon",
    "loha": "loha",
    "lokr": "lokr",
    "dora": "dora",
    "diag-oft": "oft",
    "oft": "oft",
}
_MODULES = {
    "networks.lora": "lora",
    "networks.loha": "loha",
    "networks.lokr": "lokr",
    "networks.oft": "oft",
    "networks.lora_fa": "lora",
    **dict.fromkeys(
        (
            "networks.lora_flux",
            "networks.lora_sd3",
            "networks.lora_zimage",
            "networks.lora_qwen_image",
            "networks.lora_flux_2",
        ),
        "lora",
    ),
}
_PRESETS = {
    "attn-only": ("cross_attention", "self_attention"),
    "attn-mlp": names.TRANSFORMER,
    "unet-transformer-only": names.TRANSFORMER,
}
_GUI_KINDS = {
    "standard": ("networks.lora", ""),
    "flux1": ("networks.lora_flux", ""),
    "sd3": ("networks.lora_sd3", ""),
    "kohya locon": ("networks.lora", ""),
    "lora-fa": ("networks.lora_fa", ""),
    "lycoris/locon": ("lycoris.kohya", "locon"),
    "lycoris/loha": ("lycoris.kohya", "loha"),
    "lycoris/lokr": ("lycoris.kohya", "lokr"),
    "lycoris/dora": ("lycoris.kohya", "dora"),
    "lycoris/diag-oft": ("lycoris.kohya", "diag-oft"),
}


def put_network(settings: Settings, draft: Draft) -> None:
    """Put the adapter with rank, alpha and layers."""
    module = settings.text("network_module") or "networks.lora"
    words = training.key_values(settings.raw("network_args"))
    gui = (settings.text("LoRA_type") or "").lower()
    if gui:
        module, algorithm = _GUI_KINDS.get(gui, (module, ""))
        words = ({"algo": algorithm} if algorithm else {}) | words
        if gui not in _GUI_KINDS:
            draft.left(
                *settings.origin("LoRA_type"), "adapters: lora, locon, loha, lokr, dora, oft"
            )
    for key in ("conv_dim", "conv_alpha"):
        # The graphical program writes its sliders' values whether or not they mean anything.
        value = settings.raw(key)
        if value is not None and key not in words and gui not in ("standard", "lora-fa"):
            words[key] = str(value)
    name, layers = _kind(module, words, draft, settings)
    origin = settings.origin("network_module") if not gui else settings.origin("LoRA_type")
    draft.put("adapter.name", name, origin)
    if module == "networks.lora_fa":
        draft.note("adapter.name", "LoRA-FA freezes one of its two matrices; here both are trained")
    rank, alpha = settings.whole("network_dim"), settings.number("network_alpha")
    origins = [settings.origin("network_dim"), settings.origin("network_alpha")]
    if rank is None:
        draft.note("adapter.rank", "not given: 4")
    common.put_rank(draft, 4 if rank is None else rank, alpha, origins, "1")
    note = "of their Transformer2DModel" if "convolution" not in layers else ""
    if draft.family is not None:
        flow_models.put_flow_layers(draft, draft.family, module, layers, origin)
    else:
        common.put_layers(draft, layers, origin, note)
    _put_options(draft.values["adapter.name"], words, draft)
    common.put_first_weights(draft, settings, "network_weights")
    _put_text_encoders(settings, draft)


def _kind(
    module: str, words: dict[str, str], draft: Draft, settings: Settings
) -> tuple[str, tuple[str, ...]]:
    """Return the adapter's name here, and its layers."""
    has_convolutions = bool(as_number(words.get("conv_dim")))
    if module.startswith("lycoris"):
        algorithm = words.pop("algo", "lora")
        name = _ALGORITHMS.get(algorithm.lower())
        if name is None:
            reason = "adapters here: lora, locon, loha, lokr, dora, oft"
            draft.left("network_args algo", algorithm, reason)
            name = "locon"
        if words.pop("dora_wd", "").lower() == "true":
            name = "dora"
            draft.note("adapter.name", f"{algorithm} with dora_wd is DoRA of a LoRA here")
        preset = words.pop("preset", "full")
        layers = _PRESETS.get(preset, (*names.TRANSFORMER, "convolution"))
        if preset not in (*_PRESETS, "full"):
            draft.left("network_args preset", preset, "layers are chosen by groups: adapter.layers")
        if "conv_dim" in words and not has_convolutions:
            layers = tuple(layer for layer in layers if layer != "convolution")
    else:
        name = _MODULES.get(module, "")
        if not name:
            draft.left(*settings.origin("network_module"), "no such adapter here; lora stands in")
            name = "lora"
        layers = (*names.TRANSFORMER, "convolution") if has_convolutions else names.TRANSFORMER
    if name in ("lora", "locon"):
        name = "locon" if "convolution" in layers else "lora"
    if name == "oft":
        layers = tuple(layer for layer in layers if layer != "convolution")
    return name, layers


def _put_options(name: str, words: Mapping[str, str], draft: Draft) -> None:
    for key, value in words.items():
        number = as_number(value)
        origin = (f"network_args {key}", value)
        if key == "conv_dim" and number and name == "locon":
            draft.put("adapter.conv_rank", int(number), origin)
        elif key == "conv_alpha" and number and name == "locon":
            draft.put("adapter.conv_alpha", number, origin)
        elif key in ("conv_dim", "conv_alpha") and not number:
            draft.left(*origin, "no convolution is trained")
        elif key in ("conv_dim", "conv_alpha"):
            draft.left(*origin, f"{name} has one rank and one alpha for all layers")
        elif key == "factor" and number and number > 0 and name == "lokr":
            draft.put("adapter.factor", int(number), origin)
        elif key == "decompose_both" and name == "lokr":
            draft.put("adapter.decompose_both", value.lower() == "true", origin)
        elif "dropout" in key:
            draft.left(*origin, common.NO_DROPOUT)
        else:
            draft.left(*origin, "adapters have no such option here: loba plugins show " + name)
    if name == "locon" and "adapter.conv_rank" in draft.values:
        alpha = ("network_args conv_alpha", 1)
        if "adapter.conv_alpha" not in draft.values:
            draft.put("adapter.conv_alpha", 1.0, alpha, "not given: 1")


def _put_text_encoders(settings: Settings, draft: Draft) -> None:
    """Have text encoders trained, as sd-scripts does unless it is told not to."""
    unet_only = settings.flag("network_train_unet_only")
    if settings.flag("network_train_text_encoder_only"):
        common.refuse_kind("text encoders alone", draft.tool)
    origin, rates = _text_rates(settings)
    unet_only = unet_only or "dit" in settings  # musubi-tuner, whose model it is, trains none
    if unet_only or "prompts_file" in settings or all(rate == 0 for rate in rates):
        if origin is not None:
            draft.left(*origin, "the text encoders are not trained there, nor here")
        return
    trained = {
        name: rate
        for name, rate in zip(("text_encoder", "text_encoder_2"), rates, strict=False)
        if rate != 0
    }
    origin = origin or ("network_train_unet_only", "not set: text encoders too")
    common.put_text_encoders(draft, trained, origin, num_encoders=len(rates))


def _text_rates(settings: Settings) -> tuple[tuple[str, Any] | None, list[float | None]]:
    """Return the key of the text encoders' rates, and a rate each; None is the UNet's."""
    origin: tuple[str, Any] | None = None
    rates: list[float | None] = [None]
    if "text_encoder_lr" in settings:
        origin = settings.origin("text_encoder_lr")
        given = settings.raw("text_encoder_lr")
        given = given if isinstance(given, list) else [given]
        rates = [*map(as_number, given[:2])] or [None]
    for number, key in enumerate(("text_encoder_lr1", "text_encoder_lr2")):
        if key in settings:
            origin = settings.origin(key)
            rates = [rates[0], rates[-1]]  # one rate is of both
            rates[number] = settings.number(key)
    return origin, rates
