"""The transformer families whose adapters are read and written, and how other tools name each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from loba_tui.core.adapter_keys.transformers.flux import FLUX_1, FLUX_2
from loba_tui.core.adapter_keys.transformers.layout import TransformerLayout
from loba_tui.core.adapter_keys.transformers.qwen_image import QWEN_IMAGE
from loba_tui.core.adapter_keys.transformers.sd_3 import SD_3
from loba_tui.core.adapter_keys.transformers.z_image import Z_IMAGE

COMPONENT = "transformer"
"""What diffusers' pipelines call such a denoiser, and its adapters' keys before their first dot."""


@dataclass(frozen=True)
class ComfyKeys:
    """Keys under which both ComfyUI and diffusers' loader of a family take a LoRA.

    Attributes:
        prefix: Before the layers' names.
        are_original: Whether these are those of the first implementation, else diffusers'.
        alphas: Which alphas stand beside the weights; others are in them. Where diffusers finds the
            layer of an alpha by the end of its name, all have to be alike.
    """

    prefix: str
    are_original: bool = False
    alphas: Literal["any", "alike", "none"] = "any"


def _never(_config: Mapping[str, Any]) -> None:
    """Say that all models of a family have one name."""


@dataclass(frozen=True)
class TransformerFamily:
    """One architecture of a transformer.

    Attributes:
        name: As people say it.
        class_name: Of diffusers' model.
        architecture: By the model metadata standard, where a configuration does not tell more.
        base_version: What tools write as `ss_base_model_version`.
        said: How these two begin in files of any tool, letters and digits alone.
        variant: Gives both of a model by its configuration; None where these here are right.
    """

    name: str
    class_name: str
    architecture: str
    base_version: str
    said: tuple[str, ...]
    layout: TransformerLayout
    comfy: ComfyKeys
    variant: Callable[[Mapping[str, Any]], tuple[str, str] | None] = _never


def _width(config: Mapping[str, Any]) -> int:
    return int(config.get("num_attention_heads", 0)) * int(config.get("attention_head_dim", 0))


def _of_flux_1(config: Mapping[str, Any]) -> tuple[str, str] | None:
    return None if config.get("guidance_embeds", True) else ("flux-1-schnell", "flux1")


def _of_flux_2(config: Mapping[str, Any]) -> tuple[str, str] | None:
    sizes = {3072: "4b", 4096: "9b"}
    size = sizes.get(_width(config))
    return (f"flux.2-klein-{size}", f"flux2_klein_{size}") if size is not None else None


def _of_sd_3(config: Mapping[str, Any]) -> tuple[str, str] | None:
    if config.get("dual_attention_layers"):
        return "stable-diffusion-3-5-medium", "sd3"
    return ("stable-diffusion-3-5-large", "sd3") if _width(config) == 2432 else None


TRANSFORMERS = (
    TransformerFamily(
        "Z-Image", "ZImageTransformer2DModel", "z-image", "zimage", ("zimage",),
        Z_IMAGE, ComfyKeys("diffusion_model."),
    ),
    TransformerFamily(
        "FLUX.1", "FluxTransformer2DModel", "flux-1-dev", "flux1", ("flux1", "fluxdev"),
        FLUX_1, ComfyKeys("transformer.", alphas="alike"), _of_flux_1,
    ),
    TransformerFamily(
        "FLUX.2", "Flux2Transformer2DModel", "flux.2-dev", "flux2", ("flux2",),
        FLUX_2, ComfyKeys("diffusion_model.", are_original=True, alphas="none"), _of_flux_2,
    ),
    TransformerFamily(
        "Qwen-Image", "QwenImageTransformer2DModel", "qwen-image", "qwen_image", ("qwenimage",),
        QWEN_IMAGE, ComfyKeys("diffusion_model."),
    ),
    TransformerFamily(
        "SD 3", "SD3Transformer2DModel", "stable-diffusion-3-medium", "sd3",
        ("stablediffusion3", "stablediffusionv3", "sd3"),
        SD_3, ComfyKeys("transformer.", alphas="none"), _of_sd_3,
    ),
)  # fmt: skip
"""Every family; another one is a layout and an entry here."""


def of_class(class_name: str) -> TransformerFamily | None:
    """Return the family of a diffusers model's class; None for a UNet's."""
    return next((each for each in TRANSFORMERS if each.class_name == class_name), None)


def component_of(metadata: Mapping[str, str]) -> str:
    """Return what pipelines call the denoiser that a file of ours is for."""
    return "unet" if of_metadata(metadata) is None else COMPONENT


def of_metadata(metadata: Mapping[str, str]) -> TransformerFamily | None:
    """Return the family that a file's metadata names; None where it names none of these."""
    for key in ("modelspec.architecture", "ss_base_model_version"):
        said = re.sub(r"[^a-z0-9]", "", metadata.get(key, "")[:100].lower())
        for family in TRANSFORMERS:
            if said.startswith(family.said):
                return family
    return None
