"""From a tensor's key in an adapter file of any tool to component, module and part."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from loba_tui.core.adapter_keys import kohya_keys
from loba_tui.core.adapter_keys.parts import MOST_CHARACTERS, split_part
from loba_tui.core.adapter_keys.text_encoder_keys import text_encoder_module

Component = Literal["unet", "text_encoder", "text_encoder_2"]
COMPONENTS: tuple[Component, ...] = ("unet", "text_encoder", "text_encoder_2")

# Longest first; what comes after "lora_" has underscores for dots.
_FLAT_PREFIXES: tuple[tuple[str, Component], ...] = (
    ("lora_unet_", "unet"),
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


def meaning_of(key: str) -> KeyMeaning | Unknown:
    """Return what a key means, or why it cannot be used."""
    if len(key) > MOST_CHARACTERS:
        return Unknown("its name is too long")
    if _EMBEDDING.fullmatch(key):
        return Unknown("a text embedding, not a layer")
    split = split_part(key)
    if split is None:
        return Unknown("not a key of an adapter")
    name, part = split
    for prefix, component in _FLAT_PREFIXES:
        if name.startswith(prefix):
            bare = name.removeprefix(prefix)
            if prefix == "lycoris_" and bare.startswith("text_model_"):
                component = "text_encoder"
            return _in_component(component, bare, part, _flat_form(prefix, bare))
    return _dotted(name, part, key)


def _flat_form(prefix: str, bare: str) -> str:
    if prefix.startswith("lycoris_"):
        return "LyCORIS' wrapper, as SimpleTuner has it"
    if "." in bare:
        return "diffusers' paths after kohya's prefix"
    return "kohya"


def _dotted(name: str, part: str, key: str) -> KeyMeaning | Unknown:
    component: Component | None = None
    form = _dotted_form(name, key)
    found = True
    while found:
        found = False
        for prefix, means in _DOTTED_PREFIXES:
            if name.startswith(prefix):
                name, found = name.removeprefix(prefix), True
                component = component or means
    if component is None:
        is_text = name.startswith(("text_model.", "encoder.layers."))
        component = "text_encoder" if is_text else "unet"
    return _in_component(component, name, part, form)


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


def _in_component(component: Component, name: str, part: str, form: str) -> KeyMeaning | Unknown:
    if component != "unet":
        try:
            return KeyMeaning(component, text_encoder_module(name), part, form)
        except KeyError:
            return Unknown("no layer of CLIP by that name")
    if "." in name and _UNET_MODULE.fullmatch(name):
        return KeyMeaning(component, name, part, form)
    try:
        module = kohya_keys.from_kohya(name.replace(".", "_"))
    except KeyError:
        return Unknown("no layer of an SD 1.x, SD 2.x or SD-XL UNet by that name")
    return KeyMeaning(component, module, part, form)
