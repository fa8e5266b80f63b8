"""Which container speaks for which diffusers pipeline; another family is one line here."""

from __future__ import annotations

from types import MappingProxyType

from diffusers import DiffusionPipeline

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.containers.families.flux import FluxContainer
from loba_tui.core.associate.containers.families.flux2 import Flux2KleinContainer
from loba_tui.core.associate.containers.families.qwen_image import QwenImageContainer
from loba_tui.core.associate.containers.families.sd import SDContainer
from loba_tui.core.associate.containers.families.sd3 import SD3Container
from loba_tui.core.associate.containers.families.sdxl import SDXLContainer
from loba_tui.core.associate.containers.families.transformer import TransformerContainer
from loba_tui.core.associate.containers.families.unet import UNetContainer
from loba_tui.core.associate.containers.families.z_image import ZImageContainer
from loba_tui.core.associate.sources.locate import ModelSource
from loba_tui.core.errors import RecipeError

CONTAINERS: MappingProxyType[str, type[UNetContainer] | type[TransformerContainer]] = (
    MappingProxyType(
        {
            "StableDiffusionPipeline": SDContainer,
            "StableDiffusionXLPipeline": SDXLContainer,
            "StableDiffusion3Pipeline": SD3Container,
            "FluxPipeline": FluxContainer,
            "Flux2KleinPipeline": Flux2KleinContainer,
            "QwenImagePipeline": QwenImageContainer,
            "ZImagePipeline": ZImageContainer,
        }
    )
)
"""Container by the pipeline's class name, as model_index.json gives it."""


def check_supported(class_name: str, model_id: str) -> None:
    """Raise `RecipeError` if no container speaks for pipelines of this class."""
    if class_name not in CONTAINERS:
        raise RecipeError(
            f"base_model.id: {model_id} is a {class_name}, a model family not supported yet.",
            f"Supported are: {', '.join(sorted(CONTAINERS))}.",
        )


def vae_class(class_name: str) -> str:
    """Return the class of the VAE that pipelines of a class are trained with."""
    return CONTAINERS[class_name].vae_class


def make_container(
    pipeline: DiffusionPipeline, model_id: str, source: ModelSource | None = None
) -> ModelContainer:
    """Return the container for a loaded pipeline, and for where it came from."""
    revision = None if source is None else source.revision
    resolution = None if source is None else source.resolution
    class_name = type(pipeline).__name__
    check_supported(class_name, model_id)
    return CONTAINERS[class_name](pipeline, revision, resolution=resolution)
