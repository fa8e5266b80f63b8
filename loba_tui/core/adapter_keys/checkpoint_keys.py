"""Tensors of a one-file checkpoint: which weight of which module each of them is.

The UNet has the names of its first implementations (`model.diffusion_model.input_blocks…`). Text
encoders are transformers' CLIP, or OpenCLIP's, where one matrix has query, key and value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from loba_tui.core.adapter_keys.kohya_keys import from_kohya
from loba_tui.core.adapter_keys.names import Component

UNET_PREFIX = "model.diffusion_model."
_CLIP_PREFIXES = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_OPEN_CLIP_PREFIXES: tuple[tuple[str, Component], ...] = (
    ("conditioner.embedders.1.model.", "text_encoder_2"),
    ("cond_stage_model.model.", "text_encoder"),
)
_RESNET_NORM = re.compile(r"(?P<resnet>.+\.0|middle_block\.[02])\.(?P<at>in|out)_layers\.0")
_BLOCK_NORM = re.compile(r"(?P<block>.+\.transformer_blocks\.\d+)\.(?P<norm>norm[123])")
_RESBLOCK = re.compile(r"transformer\.resblocks\.(?P<number>\d{1,3})\.(?P<inner>.+)")
_OPEN_CLIP = {
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}


Part = Literal["weight", "bias"]


@dataclass(frozen=True)
class Place:
    """A module's weight or bias in a checkpoint's tensor.

    Attributes:
        module: By diffusers' and transformers' names.
        spans: Which of the tensor's rows it is, in its order; () where it is all of them.
        third: Which third of the rows it is; None where it is none.
        is_transposed: Whether the tensor has the weight with its axes swapped.
    """

    component: Component
    module: str
    part: Part
    spans: tuple[tuple[int, int], ...] = ()
    third: int | None = None
    is_transposed: bool = False

    def rows(self, number: int) -> tuple[tuple[int, int], ...]:
        """Return spans of the rows of a tensor that has so many."""
        if self.third is not None:
            rows = number // 3
            return ((self.third * rows, (self.third + 1) * rows),)
        return self.spans or ((0, number),)


def places_in(key: str) -> tuple[Place, ...]:
    """Return what a checkpoint's tensor holds; nothing where it is no layer that can be adapted."""
    for prefix, component in _OPEN_CLIP_PREFIXES:
        if key.startswith(prefix):
            return _open_clip(key.removeprefix(prefix), component)
    name, _, ending = key.rpartition(".")
    part = _part(ending)
    if part is None:
        return ()
    for prefix in _CLIP_PREFIXES:
        if name.startswith(prefix):
            return (Place("text_encoder", name.removeprefix(prefix), part),)
    if not name.startswith(UNET_PREFIX):
        return ()
    try:
        return (Place("unet", _unet_module(name.removeprefix(UNET_PREFIX)), part),)
    except KeyError:
        return ()


def _unet_module(name: str) -> str:
    if name == "out.0":
        return "conv_norm_out"
    if match := _BLOCK_NORM.fullmatch(name):
        return _named(f"{match['block']}.attn1.to_q").removesuffix("attn1.to_q") + match["norm"]
    if match := _RESNET_NORM.fullmatch(name):
        layer = "in_layers.2" if match["at"] == "in" else "out_layers.3"
        conv = _named(f"{match['resnet']}.{layer}")
        return conv.replace(".conv1", ".norm1").replace(".conv2", ".norm2")
    return _named(name)


def _named(name: str) -> str:
    return from_kohya(name.replace(".", "_"))


def _open_clip(name: str, component: Component) -> tuple[Place, ...]:
    if name == "text_projection":
        return (Place(component, "text_projection", "weight", is_transposed=True),)
    match = _RESBLOCK.fullmatch(name)
    if match is None:
        return ()
    layer = f"text_model.encoder.layers.{match['number']}"
    if match["inner"] in ("attn.in_proj_weight", "attn.in_proj_bias"):
        whole = Place(component, f"{layer}.self_attn.", _part(match["inner"][-6:]) or "bias")
        return tuple(
            replace(whole, module=f"{whole.module}{letter}_proj", third=number)
            for number, letter in enumerate("qkv")
        )
    inner, _, ending = match["inner"].rpartition(".")
    part = _part(ending)
    if inner not in _OPEN_CLIP or part is None:
        return ()
    return (Place(component, f"{layer}.{_OPEN_CLIP[inner]}", part),)


def _part(ending: str) -> Part | None:
    return "weight" if ending == "weight" else "bias" if ending == "bias" else None
