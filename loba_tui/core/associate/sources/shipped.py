"""Configurations that the package carries: of models that are not here, and of one-file models."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from types import MappingProxyType

from loba_tui.core.associate.one_file.header import Family, PredictionType

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
KNOWN = MappingProxyType(
    {
        SDXL: "stable-diffusion-xl-base-1.0",
        # One architecture, under its present and its former addresses.
        "stable-diffusion-v1-5/stable-diffusion-v1-5": "stable-diffusion-v1-5",
        "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4": "stable-diffusion-v1-5",
        "stabilityai/stable-diffusion-2-1": "stable-diffusion-2-1",
        "stabilityai/stable-diffusion-2-1-base": "stable-diffusion-2-1-base",
        "stabilityai/stable-diffusion-3.5-medium": "stable-diffusion-3.5-medium",
        "stabilityai/stable-diffusion-3.5-large": "stable-diffusion-3.5-large",
        "black-forest-labs/FLUX.1-dev": "flux-1-dev",
        "black-forest-labs/FLUX.1-schnell": "flux-1-schnell",
        "black-forest-labs/FLUX.2-klein-4B": "flux-2-klein-4b",
        "black-forest-labs/FLUX.2-klein-base-4B": "flux-2-klein-base-4b",
        "Tongyi-MAI/Z-Image": "z-image",
        "Tongyi-MAI/Z-Image-Turbo": "z-image-turbo",
        "Qwen/Qwen-Image": "qwen-image",
    }
)
"""Hub ids whose configurations the package carries, each with its folder."""


def shipped_folder(model_id: str) -> Path | None:
    """Return the folder of a hub model's configuration; None where it is not carried."""
    return None if model_id not in KNOWN else _folder(KNOWN[model_id])


def folder_of_family(family: Family, prediction_type: PredictionType | None) -> Path:
    """Return the folder of the configuration that checkpoints of a family are read by.

    SD 2.x is of two: for 768 pixels and velocity, and for 512 pixels and noise.
    """
    if family == "sd2":
        is_velocity = prediction_type == "v_prediction"
        return _folder("stable-diffusion-2-1" if is_velocity else "stable-diffusion-2-1-base")
    return _folder("stable-diffusion-xl-base-1.0" if family == "sdxl" else "stable-diffusion-v1-5")


def _folder(name: str) -> Path:
    return Path(str(resources.files("loba_tui.models") / "configs" / name))
