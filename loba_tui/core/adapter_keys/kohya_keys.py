"""Names of UNet layers: from diffusers' blocks to those that kohya's files use, and back.

An adapter's keys are module names with underscores for dots, after `lora_unet_`; A1111, ComfyUI and
diffusers all read them. Which modules depends on the UNet that sd-scripts trains on. For SD 1.x and
2.x that is diffusers' own. For SD-XL it is the one of Stability's `generative-models`, whose blocks
are three flat lists; a block of such a list is a column of parts: the resnet is part 0, the
attention part 1, and an upsampler comes after what is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

PREFIX = "lora_unet_"

_RESNET_PARTS = MappingProxyType(
    {
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
        "norm1": "in_layers.0",
        "norm2": "out_layers.0",
    }
)
_SGM_OUTER_LAYERS = MappingProxyType(
    {
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
    }
)
_RESNET_NAMES = MappingProxyType(
    {part.replace(".", "_"): name for name, part in _RESNET_PARTS.items()}
)
_OUTER_NAMES = MappingProxyType(
    {
        either.replace(".", "_"): name
        for name, outer in _SGM_OUTER_LAYERS.items()
        for either in (name, outer)
    }
)
# Inside a transformer block both name layers alike; these are the dots that underscores replace.
_TRANSFORMER_TAIL = re.compile(
    r"transformer_blocks_(?P<block>\d+)_(?:(?P<norm>norm[123])|"
    r"(?P<attention>attn[12])_(?:(?P<projection>to_[qkv])|to_out_0)|ff_net_(?P<ff>0_proj|2))"
)
_BLOCK = re.compile(r"(?P<side>down|up)_blocks\.(?P<block>\d+)\.(?P<rest>.+)")
_PART = re.compile(r"(?P<kind>resnets|attentions)\.(?P<layer>\d+)\.(?P<inner>.+)")
# Diffusers' names, underscores for dots.
_UNDERSCORED = re.compile(
    r"(?P<block>mid_block|(?:down|up)_blocks_\d+)_"
    r"(?:(?P<sampler>(?:down|up)samplers_0)_conv|(?P<kind>resnets|attentions)_(?P<layer>\d+)_(?P<inner>.+))"
)


@dataclass(frozen=True)
class BlockLayout:
    """How many columns the blocks of a UNet have; the default is SD-XL's.

    Attributes:
        layers_per_block: Resnets of a down block; an up block has one more.
        plain_up_blocks: Up blocks without attention, where an upsampler is part 1 instead of 2.
    """

    layers_per_block: int = 2
    plain_up_blocks: frozenset[int] = frozenset({2})

    @classmethod
    def of(cls, unet_config: Mapping[str, Any]) -> BlockLayout:
        """Read the layout off a diffusers UNet's configuration."""
        plain = [i for i, kind in enumerate(unet_config["up_block_types"]) if "Attn" not in kind]
        return cls(unet_config["layers_per_block"], frozenset(plain))

    @property
    def columns(self) -> int:
        """Columns that one block takes in the flat lists."""
        return self.layers_per_block + 1


SDXL_LAYOUT = BlockLayout()


def to_kohya(module: str, layout: BlockLayout | None = SDXL_LAYOUT) -> str:
    """Return kohya's name of a UNet module, such as lora_unet_input_blocks_4_1_proj_in.

    Args:
        layout: The columns of an SD-XL; None is for the UNets that sd-scripts takes from diffusers.

    Raises:
        KeyError: The module has no counterpart.
    """
    sgm = _to_sgm(module, layout or SDXL_LAYOUT)  # what has no name there has none here
    return PREFIX + (module if layout is None else sgm).replace(".", "_")


def from_kohya(name: str, layout: BlockLayout = SDXL_LAYOUT) -> str:
    """Return diffusers' name of a module that `to_kohya` named, by either naming.

    Raises:
        KeyError: It is not such a name.
    """
    bare = name.removeprefix(PREFIX)
    if bare in _OUTER_NAMES:
        return _OUTER_NAMES[bare]
    if match := _UNDERSCORED.fullmatch(bare):
        return _from_underscored(match)
    match = re.fullmatch(r"(input_blocks|output_blocks)_(\d+)_(\d)_(.+)", bare)
    if match:
        column, part = int(match[2]), int(match[3])
        if match[1] == "input_blocks":
            # Column 0 is the convolution that everything goes through first.
            return _from_block("down", column - 1, part, match[4], layout)
        return _from_block("up", column, part, match[4], layout)
    match = re.fullmatch(r"middle_block_([012])_(.+)", bare)
    if match and match[1] == "1":
        return f"mid_block.attentions.0.{_attention_inner(match[2])}"
    if match:
        return f"mid_block.resnets.{int(match[1]) // 2}.{_RESNET_NAMES[match[2]]}"
    raise KeyError(name)


def _from_underscored(match: re.Match[str]) -> str:
    block = re.sub(r"_(\d+)$", r".\1", match["block"])
    if match["sampler"]:
        return f"{block}.{match['sampler'].replace('_', '.')}.conv"
    inner = match["inner"]
    if match["kind"] == "attentions":
        inner = _attention_inner(inner)
    elif inner not in _RESNET_PARTS:
        raise KeyError(match[0])
    return f"{block}.{match['kind']}.{match['layer']}.{inner}"


def _to_sgm(module: str, layout: BlockLayout) -> str:
    if module in _SGM_OUTER_LAYERS:
        return _SGM_OUTER_LAYERS[module]
    if module.startswith("mid_block."):
        kind, layer, inner = _part(module.removeprefix("mid_block."))
        return f"middle_block.{1 if kind == 'attentions' else 2 * layer}.{inner}"
    match = _BLOCK.fullmatch(module)
    if match is None:
        raise KeyError(module)
    block, rest = int(match["block"]), match["rest"]
    if match["side"] == "down":
        if rest == "downsamplers.0.conv":
            return f"input_blocks.{(block + 1) * layout.columns}.0.op"
        # Column 0 is the convolution that everything goes through first.
        first = 1 + block * layout.columns
        name = "input_blocks"
    else:
        first = block * layout.columns
        name = "output_blocks"
        if rest == "upsamplers.0.conv":
            part = 1 if block in layout.plain_up_blocks else 2
            return f"{name}.{first + layout.layers_per_block}.{part}.conv"
    kind, layer, inner = _part(rest)
    return f"{name}.{first + layer}.{int(kind == 'attentions')}.{inner}"


def _part(rest: str) -> tuple[str, int, str]:
    """Split "resnets.1.conv1" and translate what a resnet calls its layers."""
    match = _PART.fullmatch(rest)
    if match is None:
        raise KeyError(rest)
    inner = match["inner"]
    if match["kind"] == "resnets":
        inner = _RESNET_PARTS[inner]
    return match["kind"], int(match["layer"]), inner


def _from_block(side: str, column: int, part: int, inner: str, layout: BlockLayout) -> str:
    block, layer = divmod(column, layout.columns)
    if inner == ("op" if side == "down" else "conv"):
        return f"{side}_blocks.{block}.{side}samplers.0.conv"
    if part == 0:
        return f"{side}_blocks.{block}.resnets.{layer}.{_RESNET_NAMES[inner]}"
    return f"{side}_blocks.{block}.attentions.{layer}.{_attention_inner(inner)}"


def _attention_inner(inner: str) -> str:
    if inner in ("norm", "proj_in", "proj_out"):
        return inner
    match = _TRANSFORMER_TAIL.fullmatch(inner)
    if match is None:
        raise KeyError(inner)
    block = f"transformer_blocks.{match['block']}"
    if match["norm"]:
        return f"{block}.{match['norm']}"
    if match["ff"]:
        return f"{block}.ff.net.{match['ff'].replace('_', '.')}"
    return f"{block}.{match['attention']}.{match['projection'] or 'to_out.0'}"
