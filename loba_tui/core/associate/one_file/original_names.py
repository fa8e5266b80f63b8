"""Where a diffusers component's weights stand in a checkpoint of one file.

Such a file has the names of the code that the models were first trained with (CompVis' latent
diffusion and Stability's generative-models). The names are worked out from diffusers' side: for
each weight of a network the one place where it stands, so that what a file lacks, and what it has
beside, is known from its header.

    unet_place("conv_in.weight", config)             Place("model.diffusion_model.input_blocks.0…")
    vae_place("encoder.conv_norm_out.bias", config)  Place("encoder.norm_out.bias")
    hugging_face_clip_place(…), open_clip_place(…)   a text encoder's, in either of its two forms
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNET_PREFIX = "model.diffusion_model."

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_MIDDLE = {
    "resnets.0": "block_1",
    "attentions.0": "attn_1",
    "resnets.1": "block_2",
}
_VAE_PARTS = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_THIRDS = {"q_proj": 0, "k_proj": 1, "v_proj": 2}

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")
_CLIP_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


@dataclass(frozen=True)
class Place:
    """Where a weight stands in a file, and how it is written there.

    Attributes:
        third: The weight is this third of the rows; None where it is all of them.
        is_transposed: Rows and columns are changed for each other.
    """

    key: str
    third: int | None = None
    is_transposed: bool = False


def unet_place(name: str, config: Mapping[str, Any]) -> Place:
    """Return where a weight of a `UNet2DConditionModel` stands."""
    module, _, rest = _split(name, _UNET_ENDS)
    if module:
        return Place(f"{UNET_PREFIX}{_UNET_ENDS[module]}.{rest}")
    if name.startswith("mid_block."):
        _, kind, index, rest = name.split(".", 3)
        # A residual block, attention, a residual block: 0, 1, 2.
        middle = 2 * int(index) + (kind == "attentions")
        return Place(f"{UNET_PREFIX}middle_block.{middle}.{_in_block(kind, rest)}")
    found = _BLOCK.match(name)
    if found is None:
        return Place(f"{UNET_PREFIX}{name}")
    direction, kind = found[1], found[3]
    block, layer = int(found[2]), int(found[4])
    rest = name[found.end() + 1 :]
    sizes = _layers(config)
    if direction == "up":
        sizes = [size + 1 for size in reversed(sizes)]
        at = sum(sizes[:block]) + (sizes[block] - 1 if kind == "upsamplers" else layer)
        has_attention = "Attn" in config["up_block_types"][block]
        part = {"resnets": 0, "attentions": 1, "upsamplers": 1 + has_attention}[kind]
        return Place(f"{UNET_PREFIX}output_blocks.{at}.{part}.{_in_block(kind, rest)}")
    # The first input block is the convolution; each halving is a block of its own.
    at = 1 + sum(size + 1 for size in sizes[:block])
    at += sizes[block] if kind == "downsamplers" else layer
    part = 1 if kind == "attentions" else 0
    rest = rest.replace("conv.", "op.", 1) if kind == "downsamplers" else _in_block(kind, rest)
    return Place(f"{UNET_PREFIX}input_blocks.{at}.{part}.{rest}")


def vae_place(name: str, config: Mapping[str, Any]) -> Place:
    """Return where a weight of an `AutoencoderKL` stands, without the prefix of the VAE."""
    side, _, rest = name.partition(".")
    if side not in ("encoder", "decoder"):
        return Place(name)
    rest = re.sub(r"^conv_norm_out\b", "norm_out", rest)
    if rest.startswith("mid_block."):
        _, kind, index, inner = rest.split(".", 3)
        return Place(f"{side}.mid.{_VAE_MIDDLE[f'{kind}.{index}']}.{_renamed(inner, _VAE_PARTS)}")
    found = _BLOCK.match(rest)
    if found is None:
        return Place(f"{side}.{rest}")
    block, kind, index = int(found[2]), found[3], found[4]
    inner = rest[found.end() + 1 :]
    if side == "decoder":
        block = len(config["block_out_channels"]) - 1 - block
    direction = found[1]
    if kind == "resnets":
        return Place(f"{side}.{direction}.{block}.block.{index}.{_renamed(inner, _VAE_PARTS)}")
    sampling = {"downsamplers": "downsample", "upsamplers": "upsample"}.get(kind, kind)
    return Place(f"{side}.{direction}.{block}.{sampling}.{inner}")


def hugging_face_clip_place(name: str, prefix: str) -> Place:
    """Return where a weight of a `CLIPTextModel` stands that kept its names."""
    return Place(f"{prefix}{_within_text_model(name)}")


def open_clip_place(name: str, prefix: str) -> Place:
    """Return where a weight of a text encoder stands that was trained with OpenCLIP."""
    if name == "text_projection.weight":
        return Place(f"{prefix}text_projection", is_transposed=True)
    name = _within_text_model(name)
    if name in _OPEN_CLIP_ENDS:
        return Place(prefix + _OPEN_CLIP_ENDS[name])
    found = _CLIP_LAYER.fullmatch(name)
    if found is None:
        return Place(prefix + name)
    layer, part, what = f"{prefix}transformer.resblocks.{found[1]}", found[2], found[3]
    third = _THIRDS.get(part.removeprefix("self_attn."))
    if third is not None:
        return Place(f"{layer}.attn.in_proj_{what}", third)
    return Place(f"{layer}.{_OPEN_CLIP_PARTS.get(part, part)}.{what}")


def _within_text_model(name: str) -> str:
    # transformers has dropped this part from some of its classes, in some of its versions.
    return name.removeprefix("text_model.")


def _layers(config: Mapping[str, Any]) -> list[int]:
    layers = config["layers_per_block"]
    return [layers] * len(config["block_out_channels"]) if isinstance(layers, int) else list(layers)


def _in_block(kind: str, rest: str) -> str:
    return _renamed(rest, _RESNET) if kind == "resnets" else rest


def _renamed(name: str, table: Mapping[str, str]) -> str:
    module, _, rest = _split(name, table)
    return f"{table[module]}.{rest}" if module else name


def _split(name: str, table: Mapping[str, str]) -> tuple[str, str, str]:
    """Return the module of a table that a name begins with, a point, and the rest."""
    module = next((each for each in table if name.startswith(f"{each}.")), "")
    return module, ".", name[len(module) + 1 :] if module else name
