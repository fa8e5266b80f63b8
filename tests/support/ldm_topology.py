"""UNets of true topology and small widths, with the names of their layers in the first
implementations (CompVis' `latent-diffusion`, Stability's `generative-models`).

The names are enumerated in the order in which those build their layers. What they are called in
diffusers is asked of diffusers' own converter, with a number for each weight.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import nn

from loba_tui.core.associate.containers.families.sdxl import SDXLContainer

SDXL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 32, 64),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (2, 2, 4),
    "cross_attention_dim": 40,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}
SD_1: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (32, 32, 64, 64),
    "attention_head_dim": 8,
    "cross_attention_dim": 24,
}
CONFIGS = {"sdxl": SDXL, "sd1": SD_1}
DEPTHS = {"sdxl": ((0, 2, 10), 10), "sd1": ((1, 1, 1, 0), 1)}
"""Transformer blocks by level, and in the middle."""


@dataclass(frozen=True)
class Topology:
    """A UNet without an adapter.

    Attributes:
        family: "sdxl" or "sd1".
        diffusers_of: Diffusers' name of each layer, by its name in the first implementations.
    """

    family: str
    unet: UNet2DConditionModel
    diffusers_of: Mapping[str, str]

    def targets(self) -> dict[str, list[str]]:
        """Return the layers that adapters can have, by group."""

        class Holder:
            unet = self.unet

        container = SDXLContainer.__new__(SDXLContainer)
        container.pipeline = Holder()
        return container.adapter_targets()

    def weight(self, ldm_name: str) -> torch.Tensor:
        """Return the weight of a layer by its name in the first implementations."""
        module = self.unet.get_submodule(self.diffusers_of[ldm_name])
        return getattr(module, "base_layer", module).weight


def _resnet(name: str) -> Iterator[str]:
    for part in ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"):
        yield f"{name}.{part}"


def _transformer(name: str, depth: int) -> Iterator[str]:
    yield from (f"{name}.norm", f"{name}.proj_in")
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        for attention in ("attn1", "attn2"):
            yield from (f"{block}.{attention}.to_{part}" for part in ("q", "k", "v", "out.0"))
        yield from (f"{block}.ff.net.0.proj", f"{block}.ff.net.2")
        yield from (f"{block}.norm{number}" for number in (1, 2, 3))
    yield f"{name}.proj_out"


def ldm_names(widths: tuple[int, ...], depths: tuple[int, ...], middle: int) -> Iterator[str]:
    """Yield every layer of a UNet as its first implementation builds them."""
    yield from ("time_embed.0", "time_embed.2", "input_blocks.0.0")
    column, width, skips = 0, widths[0], [widths[0]]
    for level, (after, depth) in enumerate(zip(widths, depths, strict=True)):
        for _ in range(2):
            column += 1
            yield from _resnet(f"input_blocks.{column}.0")
            if width != after:
                yield f"input_blocks.{column}.0.skip_connection"
            yield from _transformer(f"input_blocks.{column}.1", depth) if depth else ()
            width = after
            skips.append(width)
        if level < len(widths) - 1:
            column += 1
            yield f"input_blocks.{column}.0.op"
            skips.append(width)
    yield from _resnet("middle_block.0")
    yield from _transformer("middle_block.1", middle)
    yield from _resnet("middle_block.2")
    column = -1
    for level in reversed(range(len(widths))):
        for layer in range(3):
            column += 1
            yield from _resnet(f"output_blocks.{column}.0")
            skips.pop()
            yield f"output_blocks.{column}.0.skip_connection"
            yield from (
                _transformer(f"output_blocks.{column}.1", depths[level]) if depths[level] else ()
            )
            if level and layer == 2:
                yield f"output_blocks.{column}.{2 if depths[level] else 1}.conv"
    yield from ("out.0", "out.2")


def _diffusers_names(family: str, unet: UNet2DConditionModel) -> dict[str, str]:
    """Ask diffusers' converter what each layer becomes, by a number in each weight."""
    widths = CONFIGS[family]["block_out_channels"]
    names = list(ldm_names(widths, *DEPTHS[family]))
    if family == "sdxl":
        names += ["label_emb.0.0", "label_emb.0.2"]
    prefix = "model.diffusion_model."
    checkpoint = {
        f"{prefix}{name}.{part}": torch.tensor([float(number)])
        for number, name in enumerate(names)
        for part in ("weight", "bias")
    }
    converted = convert_ldm_unet_checkpoint(checkpoint, dict(unet.config))
    return {
        names[int(value)]: key.removesuffix(".weight")
        for key, value in converted.items()
        if key.endswith(".weight")
    }


@functools.cache
def _made(family: str) -> Topology:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=8, layers_per_block=2, **CONFIGS[family])
    return Topology(family, unet, _diffusers_names(family, unet))


def topology(family: str) -> Topology:
    """Return a UNet of true topology, which is not changed by whoever asks again."""
    made = _made(family)
    fresh = UNet2DConditionModel.from_config(made.unet.config)
    fresh.load_state_dict(made.unet.state_dict())
    return Topology(family, fresh, made.diffusers_of)


def layers_of(unet: nn.Module) -> dict[str, nn.Module]:
    """Return the linear and convolutional layers of a UNet by name."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
