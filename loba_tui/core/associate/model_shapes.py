"""A model's modules on the meta device: every shape, no weights, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal
from zlib import crc32

import diffusers
import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from torch import nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.containers.registry import check_supported, make_container
from loba_tui.core.associate.pipeline_files import INDEX_NAME
from loba_tui.core.associate.sources.locate import ModelSource, locate, read_index, without_unused
from loba_tui.core.errors import CorruptError
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.recipe.schema import Recipe
from loba_tui.models import BUILTIN_PREFIX

_ASSUMED = "stabilityai/stable-diffusion-xl-base-1.0"
"""Stands in for models that are not known."""
KNOWN = MappingProxyType(
    {
        _ASSUMED: "stable-diffusion-xl-base-1.0",
        # One architecture, under its present and its former addresses.
        "stable-diffusion-v1-5/stable-diffusion-v1-5": "stable-diffusion-v1-5",
        "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4": "stable-diffusion-v1-5",
    }
)
"""Hub ids whose configurations the package carries, each with its folder."""

Origin = Literal["local", "cached", "shipped", "assumed"]


@dataclass(frozen=True)
class ModelShapes:
    """A model without weights.

    Attributes:
        container: Speaks for a pipeline on the meta device.
        origin: Where the configuration is from; "assumed" means that it is another model's.
        folder: The folder of the configuration; of the weights too where the origin is "local".
    """

    container: ModelContainer
    origin: Origin
    folder: Path

    def modules(self) -> dict[str, nn.Module]:
        """Return the pipeline's networks by component name."""
        components = self.container.pipeline.components
        return {name: part for name, part in components.items() if isinstance(part, nn.Module)}

    def materialise(self) -> None:
        """Give a small model real zeros on the CPU: operators run faster there than on meta."""
        for module in self.modules().values():
            module.to_empty(device="cpu")
            for tensor in [*module.parameters(), *module.buffers()]:
                tensor.detach().zero_()
        _encode_nothing(self.container)


def open_shapes(model_id: str, revision: str | None, dtype: torch.dtype) -> ModelShapes:
    """Return a model's shapes from its own configuration, or from the one that is shipped.

    Raises:
        RecipeError: There is no such model, or no container speaks for its family.
        CorruptError: Its configuration cannot be read.
    """
    folder, origin = find_configuration(model_id, revision)
    source = ModelSource(model_id, "local", folder)
    index = read_index(source)
    check_supported(index["_class_name"], model_id)
    try:
        pipeline = _pipeline(folder, index, dtype)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(
            f"{model_id}: its configuration cannot be read ({type(error).__name__}: {error}).",
            "Fetch or save the model again.",
        ) from error
    container = make_container(pipeline, model_id)
    _encode_nothing(container)
    return ModelShapes(container, origin, folder)


def shapes_of(recipe: Recipe) -> ModelShapes:
    """Return the shapes of a recipe's model in float32."""
    return open_shapes(recipe.base_model.id, recipe.base_model.revision, torch.float32)


def _encode_nothing(container: ModelContainer) -> None:
    """Have zeros for the unconditional prompt: encoders of shapes encode nothing."""
    if container.unconditional_prompt is not None:
        container.adopt_empty(container.zero_embeds())


def find_configuration(model_id: str, revision: str | None) -> tuple[Path, Origin]:
    """Return the folder of a model's configuration, without asking the network."""
    if model_id.startswith(BUILTIN_PREFIX) or Path(model_id).expanduser().exists():
        return locate(model_id, revision).folder, "local"
    try:
        cached = try_to_load_from_cache(model_id, INDEX_NAME, revision=revision)
    except HFValidationError:  # not the shape of a hub id: it is a path that is not there
        return locate(model_id, revision).folder, "local"
    if isinstance(cached, str) and (Path(cached).parent / "unet" / "config.json").is_file():
        return Path(cached).parent, "cached"
    folder = KNOWN.get(model_id, KNOWN[_ASSUMED])
    root = resources.files("loba_tui.models") / "configs" / folder
    return Path(str(root)), "shipped" if model_id in KNOWN else "assumed"


def _pipeline(folder: Path, index: dict[str, Any], dtype: torch.dtype) -> Any:
    """Return the pipeline of a model_index.json, every network on the meta device."""
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if isinstance(value, list) and value:
            library, class_name = value
            parts[name] = _component(folder / name, library, class_name, dtype)
        elif not name.startswith("_"):
            parts[name] = value
    parts |= without_unused(index)
    class_name = index["_class_name"]
    # Tokenizers have no shapes, only a length, and their files may not be here.
    for name in [name for name in parts if name.startswith("tokenizer")]:
        encoder = parts.get(name.replace("tokenizer", "text_encoder"))
        length = encoder.config.max_position_embeddings if encoder is not None else 77
        parts[name] = _Tokenizer(length)
    pipeline = getattr(diffusers, class_name)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@dataclass(frozen=True)
class _Tokenizer:
    """Stands where a tokenizer stands: it knows its length, and takes a word for a token."""

    model_max_length: int

    def __call__(
        self, prompts: Sequence[str], *, truncation: bool, max_length: int
    ) -> SimpleNamespace:
        """Return ids, the same for the same word, between those of a start and an end token."""
        words = [prompt.split()[: max_length - 2] for prompt in prompts]
        ids = [[0, *(2 + crc32(word.encode()) for word in row), 1] for row in words]
        return SimpleNamespace(input_ids=ids)


def _component(folder: Path, library: str | None, class_name: str, dtype: torch.dtype) -> Any:
    if library is None or class_name.startswith(("CLIPTokenizer", "T5Tokenizer")):
        return None
    kind = getattr(diffusers if library == "diffusers" else transformers, class_name)
    if issubclass(kind, nn.Module):
        config = parse_json((folder / "config.json").read_text("utf-8"))
        with torch.device("meta"):
            if library == "diffusers":
                module = kind.from_config(config)
            else:
                module = kind(kind.config_class(**config))
        # Of nn.Module: diffusers' own `to` warns about modules that stay in float32.
        nn.Module.to(module, dtype)
        return module.eval().requires_grad_(False)
    if issubclass(kind, diffusers.SchedulerMixin):
        return kind.from_config(parse_json((folder / "scheduler_config.json").read_text("utf-8")))
    return None


def parameters_of(module: nn.Module) -> int:
    """Return the number of a network's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def bytes_of(module: nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers, as they are held."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
