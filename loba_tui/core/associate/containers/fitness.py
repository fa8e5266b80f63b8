"""Checks of a diffusers folder that need no weights: is this model one that can be trained here?"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from loba_tui.core.associate.containers.configured import read_config
from loba_tui.core.associate.containers.registry import vae_class
from loba_tui.core.associate.one_file.header import read_header
from loba_tui.core.associate.pipeline_files import check_shards
from loba_tui.core.associate.safe_files import PICKLE_SUFFIXES, refuse_pickle
from loba_tui.core.associate.sources.locate import ModelSource
from loba_tui.core.associate.sources.weights import component_folder, variant_of
from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.names import check_variant
from loba_tui.core.text import clean

_ATTACHED = re.compile(r"\.(base_layer|lora_[AB]|lora_(up|down))\.")
_NAME_A_VAE = "Name one that does as base_model.vae: a diffusers folder or a .safetensors file."


def check_networks(source: ModelSource, index: Mapping[str, Any]) -> None:
    """Check what a model's index and configurations say of its VAE and its denoiser.

    Raises:
        RecipeError: It has no VAE that encodes and decodes, or a denoiser that is asked for more
            than noisy latents, a timestep and a prompt.
    """
    vae, wanted = (index.get("vae") or [None, None])[1], vae_class(index["_class_name"])
    if vae != wanted:
        has = f"has the VAE class {clean(vae)}" if vae else "has no VAE"
        why = ", which does not encode as training needs" if vae else ""
        raise RecipeError(f"{source.id} {has}{why}.", _NAME_A_VAE)
    for name in ("unet", "transformer"):
        if index.get(name):
            _check_denoiser(source, name)


def _check_denoiser(source: ModelSource, name: str) -> None:
    try:
        config = read_config(source.folder / name / "config.json")
    except (OSError, ValueError):
        return  # said where it is loaded
    kind = "UNet" if name == "unet" else name
    inputs = config.get("in_channels", 4)
    # A transformer that packs squares of latent pixels may state its outputs as pixels have them.
    outputs = config.get("out_channels") or inputs
    if inputs not in (outputs, outputs * _side(config) ** 2):
        what = "an inpainting model" if inputs == 9 else "not one that draws from text alone"
        raise RecipeError(
            f"{source.id} is {what}: its {kind} has {inputs} inputs and {outputs} outputs.",
            "Take the ordinary model that it was made from.",
        )
    if config.get("time_cond_proj_dim") is not None:
        raise RecipeError(
            f"{source.id} is distilled: its UNet is told the guidance scale (time_cond_proj_dim),"
            " which it is never asked with here.",
            "Take the model that it was distilled from; the adapter works on the distilled one.",
        )


def _side(config: Mapping[str, Any]) -> int:
    """Return the side of the squares that a transformer's inputs are packed in."""
    side = config.get("patch_size", 1)
    return side if type(side) is int else 1


def check_files(source: ModelSource, components: Collection[str]) -> None:
    """Check that components are there, their weights' headers, and that none has pickles only.

    Raises:
        CorruptError: A part is missing, or a file is damaged.
        RecipeError: A LoRA was left attached when the model was saved.
        RefusedError: A component has pickles only.
    """
    for component in components:
        folder = component_folder(source, component)
        if not folder.is_dir():
            # diffusers would make a tokenizer of nothing, which takes prompts of any length.
            hint = "Fetch or save the model again."
            raise CorruptError(
                f"{source.id}: its {component} is missing.",
                _NAME_A_VAE if component == "vae" else hint,
            )
        check_shards(folder)
        weights = sorted(folder.glob("*.safetensors"))
        for path in weights:
            _check_file(source, component, path)
        if not weights:
            for path in sorted(p for p in folder.glob("*") if p.suffix in PICKLE_SUFFIXES):
                refuse_pickle(path)


def variant_there(
    source: ModelSource, components: Collection[str], variant: str | None
) -> str | None:
    """Return the variant to ask diffusers for: where weights are of one alone, that one.

    Raises:
        RecipeError: No component has the variant, or some have several and none is named.
    """
    found = {
        component: {
            variant_of(p) for p in component_folder(source, component).glob("*.safetensors")
        }
        for component in components
    }
    if variant is None:
        without_plain = [each for each in found.values() if each and None not in each]
        known = sorted({str(each) for variants in without_plain for each in variants})
        if len(known) > 1:
            raise RecipeError(
                f"base_model.variant: {source.id} has its weights as {clean(', '.join(known))}.",
                "Name one of them.",
            )
        return known[0] if known else None
    check_variant(variant)
    if not any(variant in variants for variants in found.values()):
        raise RecipeError(
            f"base_model.variant: {source.id} has no {variant} weights.",
            "Leave variant out; dtype alone decides what the weights become.",
        )
    return variant


def _check_file(source: ModelSource, component: str, path: Path) -> None:
    header, _ = read_header(path)
    attached = next((key for key in header if _ATTACHED.search(key)), None)
    if attached is not None:
        raise RecipeError(
            f"{source.id}: its {component} was saved with a LoRA attached ({clean(attached)}).",
            "Save it again after fuse_lora() and unload_lora_weights(), or without the LoRA.",
        )
