"""Base model that an adapter file names, by the conventions of the field.

The words are those of the model metadata standard (Stability-AI/ModelSpec) and of sd-scripts, which
other tools sort adapters by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from torch import nn

from loba_tui.core.adapter_keys.families import FOUR_BLOCKS
from loba_tui.core.adapter_keys.kohya_keys import SDXL_LAYOUT, BlockLayout
from loba_tui.core.adapter_keys.transformers.families import (
    COMPONENT,
    TRANSFORMERS,
    TransformerFamily,
    of_class,
    of_metadata,
)
from loba_tui.core.adapter_keys.transformers.reading import families_of
from loba_tui.core.errors import RecipeError

ARCHITECTURE_KEY = "modelspec.architecture"
VERSION_KEY = "ss_base_model_version"
SGM_URL = "https://github.com/Stability-AI/generative-models"
DIFFUSERS_NAME = "adapter.safetensors"
KOHYA_NAME = "adapter.kohya.safetensors"
COMFY_NAME = "adapter.comfy.safetensors"
_VERSION_2_WIDTH = 1024
_VERSION_2_768_PIXELS = 96


@dataclass(frozen=True)
class AdapterFamily:
    """How adapters of one architecture are named.

    Attributes:
        architecture: By the model metadata standard, without what kind of adapter it is.
        base_version: sd-scripts' `ss_base_model_version`.
        layout: Columns that kohya's keys count; None where they are diffusers' names.
        transformer: The names of a transformer's layers; None where the denoiser is a UNet.
    """

    architecture: str
    base_version: str
    layout: BlockLayout | None = None
    transformer: TransformerFamily | None = None

    @property
    def component(self) -> str:
        """Name of the denoiser in pipelines; its keys in diffusers' files begin with it."""
        return "unet" if self.transformer is None else COMPONENT

    @property
    def prefix(self) -> str:
        """Beginning of the denoiser's keys in diffusers' files."""
        return f"{self.component}."

    @property
    def other_form(self) -> str:
        """Whose keys the second file has: "kohya" for a UNet, "comfy" for a transformer."""
        return "kohya" if self.transformer is None else "comfy"

    @property
    def other_name(self) -> str:
        """Name of the second file."""
        return KOHYA_NAME if self.transformer is None else COMFY_NAME

    @property
    def is_version_2(self) -> bool:
        """Whether it is SD 2.x, which sd-scripts and A1111 tell by a flag of its own."""
        return self.base_version.startswith("sd_v2")


SDXL = AdapterFamily("stable-diffusion-xl-v1-base", "sdxl_base_v1-0", SDXL_LAYOUT)
SD_1 = AdapterFamily("stable-diffusion-v1", "sd_v1")
SD_2 = AdapterFamily("stable-diffusion-v2-512", "sd_v2")
SD_2_768 = AdapterFamily("stable-diffusion-v2-768-v", "sd_v2_v")


def adapter_family(denoiser: nn.Module) -> AdapterFamily:
    """Return the family of a diffusers model, which was loaded or made."""
    return family_of({"_class_name": type(denoiser).__name__, **denoiser.config})


def family_of(config: Mapping[str, Any]) -> AdapterFamily:
    """Return the family of a diffusers denoiser's configuration."""
    transformer = of_class(str(config.get("_class_name", "")))
    if transformer is not None:
        return of_transformer(transformer, config)
    if config["addition_embed_type"] == "text_time":
        layout = BlockLayout.of(config)
        return AdapterFamily(SDXL.architecture, SDXL.base_version, layout)
    if config["cross_attention_dim"] != _VERSION_2_WIDTH:
        return SD_1
    return SD_2_768 if config["sample_size"] == _VERSION_2_768_PIXELS else SD_2


def of_transformer(
    transformer: TransformerFamily, config: Mapping[str, Any] = MappingProxyType({})
) -> AdapterFamily:
    """Return how adapters of a transformer are named; without a configuration, of any size."""
    own = (transformer.architecture, transformer.base_version)
    return AdapterFamily(*(transformer.variant(config) or own), transformer=transformer)


def family_of_file(
    metadata: Mapping[str, str], num_inputs: Mapping[str, int], family_name: str = ""
) -> AdapterFamily:
    """Return the family that an adapter file is for.

    Args:
        metadata: Of the file; where it names no architecture, the modules have to tell.
        num_inputs: Of each module that it adapts, by diffusers' name.
        family_name: Where more than these two told it.

    Raises:
        RecipeError: It can be for several.
    """
    sizes = {name: (0, columns) for name, columns in num_inputs.items()}
    transformers = tuple(each for each in TRANSFORMERS if each.name == family_name)
    if not transformers and sizes:
        transformers = families_of(sizes, sizes, metadata)
    elif not transformers:  # text encoders alone are adapted
        transformers = tuple(filter(None, [of_metadata(metadata)]))
    if len(transformers) > 1:
        raise RecipeError(
            "The adapter's layers are those of several models: "
            f"{', '.join(family.name for family in transformers)}; nothing in it says which.",
            "Put modelspec.architecture into its metadata.",
        )
    if transformers:
        return _of_size(transformers[0], metadata)
    said = metadata.get(ARCHITECTURE_KEY, "").removesuffix("/lora")
    version = metadata.get(VERSION_KEY, "")
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


def _of_size(transformer: TransformerFamily, metadata: Mapping[str, str]) -> AdapterFamily:
    """Return a family with the size of model that a file's metadata names."""
    family = of_transformer(transformer)
    given = {key: metadata.get(key, "") for key in (ARCHITECTURE_KEY, VERSION_KEY)}
    said = {key: text for key, text in given.items() if of_metadata({key: text}) is transformer}
    return replace(
        family,
        architecture=said.get(ARCHITECTURE_KEY, family.architecture).removesuffix("/lora"),
        base_version=said.get(VERSION_KEY, family.base_version),
    )
