"""The model family that an adapter file is for, by its keys, its sizes and its metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from loba_tui.core.adapter_keys.kinds import LayerKind
from loba_tui.core.adapter_keys.transformers.families import TRANSFORMERS, TransformerFamily

_OR = " or "


@dataclass(frozen=True)
class Family:
    """Model family: its name, and whether its models can be used here.

    Its name is empty where nothing tells, and "A or B" where the layers are those of several.
    """

    name: str
    is_supported: bool = True

    @property
    def with_article(self) -> str:
        """Its name after "a" or "an"."""
        return f"{'an' if self.name.startswith('SD') else 'a'} {self.name}"

    def can_be(self, other: Family) -> bool:
        """Say whether a file of this family can be for models of another."""
        return not self.name or other.name in self.names

    @property
    def names(self) -> tuple[str, ...]:
        """The families that it can be."""
        return tuple(self.name.split(_OR)) if self.name else ()


SD_1 = Family("SD 1.x")
SD_2 = Family("SD 2.x")
SD_XL = Family("SD-XL")
REFINER = Family("SD-XL refiner", is_supported=False)
UNKNOWN = Family("")
FAMILIES = ", ".join(each.name for each in (SD_1, SD_2, SD_XL, *TRANSFORMERS))
"""The families whose adapters are read and written, for messages."""

# What is not among the transformers that are read, or has other layers than these.
_OTHERS = (
    (r"double_blocks[._]\d+[._](?:img|txt)_(?:attn|mlp)[._](?:qkv|proj|norm|[02])", "FLUX"),
    (r"single_transformer_blocks[._]|single_blocks[._]\d+[._]linear[12]", "FLUX"),
    (r"double_blocks[._]\d+[._](?:img|txt)_", "Hunyuan Video"),
    (r"joint_blocks[._]|transformer_blocks[._]\d+[._](?:attn2?[._])?norm1_context", "SD 3"),
    (r"transformer_blocks[._]\d+[._](?:img|txt)_(?:mlp|mod)", "Qwen-Image"),
    (r"transformer_blocks[._]\d+[._]attn[._]add_[qkv]_proj", "SD 3 or Qwen-Image"),
    (r"(?:^|[._])blocks[._]\d+[._](?:self|cross)_attn[._][qkvo](?:[._]|$)", "Wan"),
    (r"down_blocks[._]\d+[._]\d+[._]|lora_prior_unet_", "Stable Cascade"),
    (r"context_refiner[._]|noise_refiner[._]|layers[._]\d+[._]attention[._]qkv", "Lumina"),
    (r"^(?:transformer|lora_transformer)[._]", "a diffusion transformer"),
)
_OTHER_PATTERNS = tuple((re.compile(pattern), name) for pattern, name in _OTHERS)
_WIDTHS = {768: SD_1, 1024: SD_2, 2048: SD_XL, 1280: REFINER}
# SD-XL has three blocks a side and no attention in the outermost; SD 1.x and 2.x have four, and
# their outermost attend.
FOUR_BLOCKS = ("down_blocks.0.attentions.", "down_blocks.3.", "up_blocks.2.att", "up_blocks.3.")
_DEEP = re.compile(r"transformer_blocks\.(?:[2-9]|\d\d)")


class _Layer(Protocol):
    """A layer, as far as it tells a family."""

    @property
    def component(self) -> str: ...

    @property
    def module(self) -> str: ...

    @property
    def kind(self) -> LayerKind: ...


def family_of_keys(
    header: Mapping[str, Any], metadata: Mapping[str, str], layers: Sequence[_Layer]
) -> Family:
    """Return the family of a file; `layers` are those of a Stable Diffusion that it has."""
    if not layers:
        return _other(header) or UNKNOWN
    unet = [layer for layer in layers if layer.component == "unet"]
    return (
        _by_width(unet)
        or _by_encoders(header, layers)
        or _by_names([layer.module for layer in unet], metadata)
        or _said(metadata)
        or UNKNOWN
    )


def family_of_transformers(found: Sequence[TransformerFamily]) -> Family:
    """Return the family of a file whose layers one transformer has, or several have."""
    return Family(_OR.join(each.name for each in found))


def _other(keys: Iterable[str]) -> Family | None:
    few = [key[:400] for key, _ in zip(keys, range(2000), strict=False)]
    for pattern, name in _OTHER_PATTERNS:
        if any(pattern.search(key) for key in few):
            return Family(name, is_supported=False)
    return None


def _by_width(layers: Iterable[_Layer]) -> Family | None:
    """Return the family by the width of the text states that cross-attention reads."""
    for layer in layers:
        shape = layer.kind.weight_shape or ()
        if layer.module.endswith(("attn2.to_k", "attn2.to_v")) and len(shape) > 1:
            return _WIDTHS.get(shape[1])
    return None


def _by_encoders(header: Iterable[str], layers: Iterable[_Layer]) -> Family | None:
    """Return SD-XL where a file has a second text encoder, or counts them."""
    if any(layer.component == "text_encoder_2" for layer in layers):
        return SD_XL
    return SD_XL if any(key.startswith("lora_te1_") for key in header) else None


def _by_names(modules: Sequence[str], metadata: Mapping[str, str]) -> Family | None:
    if any(_DEEP.search(module) for module in modules):
        return SD_XL
    if any(module.startswith(FOUR_BLOCKS) for module in modules):
        return _said(metadata) or SD_1
    return None


def _said(metadata: Mapping[str, str]) -> Family | None:
    """Return the family that metadata names."""
    version = metadata.get("ss_base_model_version", "").lower()
    architecture = metadata.get("modelspec.architecture", "").lower()
    if version.startswith("sdxl") or "xl-v1-base" in architecture:
        return SD_XL
    if "refiner" in architecture:
        return REFINER
    if version.startswith("sd_v2") or "diffusion-v2" in architecture or "ss_v2" in metadata:
        return SD_2 if metadata.get("ss_v2", "True") == "True" else SD_1
    if version.startswith(("sd_v1", "sd_1")) or "diffusion-v1" in architecture:
        return SD_1
    return None
