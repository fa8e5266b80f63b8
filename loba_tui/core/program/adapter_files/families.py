"""Base model that an adapter file names, by the conventions of the field.

The words are those of the model metadata standard (Stability-AI/ModelSpec) and of sd-scripts, which
other tools sort adapters by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loba_tui.core.adapter_keys.families import FOUR_BLOCKS
from loba_tui.core.adapter_keys.kohya_keys import SDXL_LAYOUT, BlockLayout

ARCHITECTURE_KEY = "modelspec.architecture"
SGM_URL = "https://github.com/Stability-AI/generative-models"
_VERSION_2_WIDTH = 1024
_VERSION_2_768_PIXELS = 96


@dataclass(frozen=True)
class AdapterFamily:
    """How adapters of one architecture are named.

    Attributes:
        architecture: By the model metadata standard, without what kind of adapter it is.
        base_version: sd-scripts' `ss_base_model_version`.
        layout: Columns that kohya's keys count; None where they are diffusers' names.
    """

    architecture: str
    base_version: str
    layout: BlockLayout | None = None

    @property
    def is_version_2(self) -> bool:
        """Whether it is SD 2.x, which sd-scripts and A1111 tell by a flag of its own."""
        return self.base_version.startswith("sd_v2")


SDXL = AdapterFamily("stable-diffusion-xl-v1-base", "sdxl_base_v1-0", SDXL_LAYOUT)
SD_1 = AdapterFamily("stable-diffusion-v1", "sd_v1")
SD_2 = AdapterFamily("stable-diffusion-v2-512", "sd_v2")
SD_2_768 = AdapterFamily("stable-diffusion-v2-768-v", "sd_v2_v")


def family_of(unet_config: Mapping[str, Any]) -> AdapterFamily:
    """Return the family of a diffusers UNet's configuration."""
    if unet_config["addition_embed_type"] == "text_time":
        layout = BlockLayout.of(unet_config)
        return AdapterFamily(SDXL.architecture, SDXL.base_version, layout)
    if unet_config["cross_attention_dim"] != _VERSION_2_WIDTH:
        return SD_1
    return SD_2_768 if unet_config["sample_size"] == _VERSION_2_768_PIXELS else SD_2


def family_of_file(metadata: Mapping[str, str], num_inputs: Mapping[str, int]) -> AdapterFamily:
    """Return the family that an adapter file is for.

    Args:
        metadata: Of the file; where it names no architecture, the modules have to tell.
        num_inputs: Of each module that it adapts, by diffusers' name.
    """
    said = metadata.get(ARCHITECTURE_KEY, "").removesuffix("/lora")
    version = metadata.get("ss_base_model_version", "")
    for family in (SDXL, SD_1, SD_2, SD_2_768):
        if said == family.architecture or version == family.base_version:
            return family
    if metadata.get("ss_v2") == "True":
        return SD_2
    contexts = {
        n for name, n in num_inputs.items() if name.endswith((".attn2.to_k", ".attn2.to_v"))
    }
    if contexts == {_VERSION_2_WIDTH}:
        return SD_2
    return SD_1 if any(name.startswith(FOUR_BLOCKS) for name in num_inputs) else SDXL
