"""From a tensor's key in an adapter file of any tool to component, module and part."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from loba_tui.core.adapter_keys import kohya_keys
from loba_tui.core.adapter_keys.parts import MOST_CHARACTERS, split_part
from loba_tui.core.adapter_keys.text_encoder_keys import text_encoder_module
from loba_tui.core.adapter_keys.transformers.layout import TransformerLayout

Component = Literal["unet", "transformer", "text_encoder", "text_encoder_2"]
DENOISERS: tuple[Component, ...] = ("unet", "transformer")
TEXT_ENCODERS: tuple[Component, ...] = ("text_encoder", "text_encoder_2")
COMPONENTS = (*DENOISERS, *TEXT_ENCODERS)

# Longest first; what comes after "lora_" has underscores for dots.
_FLAT_PREFIXES: tuple[tuple[str, Component], ...] = (
    ("lora_unet_", "unet"),
    ("lora_transformer_", "transformer"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    ("lycoris_te1_", "text_encoder"),
    ("lycoris_te2_", "text_encoder_2"),
    ("lycoris_te_", "text_encoder"),
    ("lycoris_unet_", "unet"),
    ("lycoris_", "unet"),
)
_DOTTED_PREFIXES: tuple[tuple[str, Component | None], ...] = (
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
    ("model.diffusion_model.", "unet"),
    ("diffusion_model.", "unet"),
    ("unet.", "unet"),
    ("transformer.", "transformer"),
    # PEFT's own, before anything that it wraps.
    ("base_model.model.", None),
)
_EMBEDDING = re.compile(r"(?:bundle_emb\..*|emb_params|clip_[lg]|string_to_param\..*)")
_UNET_MODULE = re.compile(
    r"(?:down_blocks\.\d{1,2}|up_blocks\.\d{1,2}|mid_block)\.[a-z0-9_.]+"
    r"|conv_in|conv_out|conv_norm_out|(?:time|add)_embedding\.linear_[12]"
)


@dataclass(frozen=True)
class KeyMeaning:
    """Tensor of a layer: where it belongs, and the form that its key has."""

    component: Component
    module: str
    part: str
    form: str


@dataclass(frozen=True)
class Unknown:
    """Key that cannot be used, with the reason, as a clause about it."""

    reason: str


_UNET_OF_TRANSFORMER = Unknown(
    "a transformer's layer after unet., where no tool looks for one; it is transformer. in"
    " diffusers' files"
)


def denoiser_name(key: str) -> str | None:
    """Return the name that a key gives a denoiser's layer, without what files put before it."""
    split = split_part(key) if len(key) <= MOST_CHARACTERS else None
    if split is None:
        return None
    placed = _placed(*split, key)
    return placed.name if placed.component in DENOISERS else None


def meaning_of(key: str, layout: TransformerLayout | None = None) -> KeyMeaning | Unknown:
    """Return what a key means, or why it cannot be used.

    Args:
        layout: Of the transformer that the file is for; the module is then by either of its
            namings, as the file has it. None for a UNet's file.
    """
    if len(key) > MOST_CHARACTERS:
        return Unknown("its name is too long")
    if _EMBEDDING.fullmatch(key):
        return Unknown("a text embedding, not a layer")
    split = split_part(key)
    if split is None:
        return Unknown("not a key of an adapter")
    placed = _placed(*split, key)
    if layout is not None and placed.component in DENOISERS:
        return _in_transformer(placed, layout)
    return _in_component(placed)


@dataclass(frozen=True)
class _Placed:
    """A key taken apart: what was before the name of its layer says the component."""

    component: Component
    name: str
    part: str
    form: str
    is_after_unet: bool = False


def _placed(name: str, part: str, key: str) -> _Placed:
    for prefix, component in _FLAT_PREFIXES:
        if name.startswith(prefix):
            bare = name.removeprefix(prefix)
            if prefix == "lycoris_" and bare.startswith("text_model_"):
                component = "text_encoder"
            return _Placed(component, bare, part, _flat_form(prefix, bare))
    return _dotted(name, part, key)


def _flat_form(prefix: str, bare: str) -> str:
    if prefix.startswith("lycoris_"):
        return "LyCORIS' wrapper, as SimpleTuner has it"
    if prefix == "lora_transformer_":
        return "OneTrainer"
    if "." in bare:
        return "diffusers' paths after kohya's prefix"
    return "kohya"


def _dotted(name: str, part: str, key: str) -> _Placed:
    component: Component | None = None
    form = _dotted_form(name, key)
    found, is_after_unet = True, False
    while found:
        found = False
        for prefix, means in _DOTTED_PREFIXES:
            if name.startswith(prefix):
                name, found = name.removeprefix(prefix), True
                component = component or means
                is_after_unet = is_after_unet or prefix == "unet."
    if component is None:
        is_text = name.startswith(("text_model.", "encoder.layers."))
        component = "text_encoder" if is_text else "unet"
    return _Placed(component, name, part, form, is_after_unet)


def _dotted_form(name: str, key: str) -> str:
    if ".processor." in key:
        return "diffusers' attention processors"
    if "base_model.model." in name:
        return "PEFT"
    if name.startswith(("diffusion_model.", "model.diffusion_model.", "text_encoders.clip_")):
        return "ComfyUI"
    if ".lora.down." in key or ".lora.up." in key or ".lora_linear_layer." in key:
        return "diffusers before PEFT"
    if ".lora_A." in key or ".lora_B." in key or ".lora_magnitude_vector" in key:
        return "diffusers"
    if any(mark in key for mark in (".hada_", ".lokr_", ".oft_R", ".boft_", ".ia3_l")):
        return "PEFT's layers"
    return "diffusers' paths with kohya's suffixes"


def _in_transformer(placed: _Placed, layout: TransformerLayout) -> KeyMeaning | Unknown:
    try:
        layout.modules(placed.name)
    except KeyError:
        return Unknown("no layer of this transformer by that name")
    if placed.is_after_unet:
        return _UNET_OF_TRANSFORMER
    return KeyMeaning("transformer", placed.name, placed.part, placed.form)


def _in_component(placed: _Placed) -> KeyMeaning | Unknown:
    name, part, form = placed.name, placed.part, placed.form
    if placed.component in TEXT_ENCODERS:
        try:
            return KeyMeaning(placed.component, text_encoder_module(name), part, form)
        except KeyError:
            return Unknown("no layer of CLIP by that name")
    unknown = Unknown("no layer of an SD 1.x, SD 2.x or SD-XL UNet by that name")
    if placed.component == "transformer":
        return unknown
    if "." in name and _UNET_MODULE.fullmatch(name):
        return KeyMeaning("unet", name, part, form)
    try:
        module = kohya_keys.from_kohya(name.replace(".", "_"))
    except KeyError:
        return unknown
    return KeyMeaning("unet", module, part, form)
