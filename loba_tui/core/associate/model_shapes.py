"""A model's modules on the meta device: every shape, no weights, nothing fetched."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from zlib import crc32

import diffusers
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from torch import Tensor, nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.containers.configured import (
    component_class,
    configured_network,
    configured_scheduler,
)
from loba_tui.core.associate.containers.fitness import check_networks
from loba_tui.core.associate.containers.loading import set_schedule, vae_configuration
from loba_tui.core.associate.containers.one_file import check_stored
from loba_tui.core.associate.containers.registry import check_supported, make_container
from loba_tui.core.associate.pipeline_files import INDEX_NAME
from loba_tui.core.associate.quantized import QuantizedLinear
from loba_tui.core.associate.sources.locate import (
    ModelSource,
    locate,
    read_index,
    with_overrides,
    without_unused,
)
from loba_tui.core.associate.sources.one_file import given_folder
from loba_tui.core.associate.sources.overrides import NO_OVERRIDES, Overrides
from loba_tui.core.associate.sources.shipped import folder_of_family, shipped_folder
from loba_tui.core.associate.sources.weights import component_folder
from loba_tui.core.errors import CorruptError
from loba_tui.core.names import file_in_repository
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.user_folders import with_home
from loba_tui.models import BUILTIN_PREFIX

Origin = Literal["local", "cached", "shipped", "assumed"]
_CLIP_TOKENS, _T5_TOKENS = 77, 512
_WORD = re.compile(r"<\|\w+\|>|\w+|[^\w\s]|\n")
"""What a tokenizer of language takes for one token, as a rule: a word, a sign, a line's end."""


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
            _materialise_attributes(module)
        _encode_nothing(self.container)


def _materialise_attributes(module: nn.Module) -> None:
    """Do so with tensors that a network holds as plain attributes: `to` passes them over."""
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_meta:
                setattr(part, name, torch.zeros_like(value, device="cpu"))


def open_shapes(
    model_id: str,
    revision: str | None,
    dtype: torch.dtype,
    overrides: Overrides = NO_OVERRIDES,
) -> ModelShapes:
    """Return a model's shapes from its own configuration, or from the one that is shipped.

    Of a checkpoint in one file the header is read, and has to have those shapes.

    Raises:
        RecipeError: There is no such model, or it is none that can be trained here.
        CorruptError: Its configuration cannot be read.
    """
    source, origin = find_configuration(model_id, revision, overrides)
    index = read_index(source)
    check_supported(index["_class_name"], model_id)
    check_networks(source, index)
    try:
        pipeline = _pipeline(source, index, dtype)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(
            f"{model_id}: its configuration cannot be read ({type(error).__name__}: {error}).",
            "Fetch or save the model again.",
        ) from error
    set_schedule(pipeline, source)
    container = make_container(pipeline, model_id, source)
    _encode_nothing(container)
    shapes = ModelShapes(container, origin, source.folder)
    if source.file is not None:
        own = {k: v for k, v in shapes.modules().items() if k != "vae" or source.vae is None}
        check_stored(source.file, own, source.id)
    return shapes


def shapes_of(recipe: Recipe) -> ModelShapes:
    """Return the shapes of a recipe's model in float32."""
    settings = recipe.base_model
    return open_shapes(settings.id, settings.revision, torch.float32, Overrides.of(settings))


def _encode_nothing(container: ModelContainer) -> None:
    """Have zeros for the unconditional prompt: encoders of shapes encode nothing."""
    if container.unconditional_prompt is not None:
        container.adopt_empty(container.zero_embeds())


def find_configuration(
    model_id: str, revision: str | None, overrides: Overrides = NO_OVERRIDES
) -> tuple[ModelSource, Origin]:
    """Return a model with the folder of its configuration, without asking the network for it.

    Only for a `base_model.config` on the hub that is not in the cache the hub is asked.
    """
    if model_id.startswith(BUILTIN_PREFIX) or with_home(model_id).exists():
        return locate(model_id, revision, overrides=overrides), "local"
    in_repository = file_in_repository(model_id)
    if in_repository is not None:
        cached = try_to_load_from_cache(*in_repository, revision=revision)
        if isinstance(cached, str):
            return locate(cached, overrides=overrides), "cached"
        return _known_by(model_id, overrides)
    try:
        cached = try_to_load_from_cache(model_id, INDEX_NAME, revision=revision)
    except HFValidationError:  # not the shape of a hub id: it is a path that is not there
        return locate(model_id, revision, overrides=overrides), "local"
    if isinstance(cached, str) and _has_denoiser(Path(cached).parent):
        return with_overrides(
            ModelSource(model_id, "hub", Path(cached).parent), overrides
        ), "cached"
    return _known_by(model_id, overrides)


def _has_denoiser(folder: Path) -> bool:
    """Say whether more of a model is there than its index, which may have been fetched alone."""
    return any((folder / name / "config.json").is_file() for name in ("unet", "transformer"))


def _known_by(model_id: str, overrides: Overrides) -> tuple[ModelSource, Origin]:
    """Return a model that is not here by the configuration that the package has for it."""
    shipped = shipped_folder(overrides.config or model_id)
    folder = shipped or folder_of_family("sdxl", None)
    if overrides.config is not None:
        folder = given_folder(overrides.config)
        overrides = replace(overrides, config=None)
    source = with_overrides(ModelSource(model_id, "hub", folder), overrides)
    return source, "shipped" if shipped else "assumed"


def _pipeline(source: ModelSource, index: dict[str, Any], dtype: torch.dtype) -> Any:
    """Return the pipeline of a model_index.json, every network on the meta device."""
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if isinstance(value, list) and value:
            library, class_name = value
            folder = component_folder(source, name)
            if name == "vae" and source.vae is not None and source.vae.is_file():
                folder = vae_configuration(source, index)
            parts[name] = _component(folder, library, class_name, dtype)
        elif not name.startswith("_"):
            parts[name] = value
    parts |= without_unused(index)
    class_name = index["_class_name"]
    # Tokenizers have no shapes, only a length, and their files may not be here.
    for name in [name for name in parts if name.startswith("tokenizer") and index[name][0]]:
        parts[name] = _Tokenizer(_most_tokens(parts.get(name.replace("tokenizer", "text_encoder"))))
    pipeline = getattr(diffusers, class_name)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _most_tokens(encoder: Any) -> int:
    """Return how many tokens a text encoder has positions for; T5 has them for any number."""
    if encoder is None:
        return _CLIP_TOKENS
    config = encoder.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or _T5_TOKENS)


@dataclass(frozen=True)
class _Tokenizer:
    """Stands where a tokenizer stands: it knows its length, and takes a word for a token."""

    model_max_length: int

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        truncation: bool,
        max_length: int,
        padding: Literal["max_length"] | None = None,
    ) -> SimpleNamespace:
        """Return ids, the same for the same word, between those of a start and an end token."""
        words = [_WORD.findall(prompt)[: max_length - 2] for prompt in prompts]
        ids = [[0, *(2 + crc32(word.encode()) for word in row), 1] for row in words]
        if padding is not None:
            ids = [row + [1] * (max_length - len(row)) for row in ids]
        return SimpleNamespace(input_ids=ids)

    def __len__(self) -> int:
        return 2 + 2**32

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], **asked: object) -> str:
        """Return messages in the form of Qwen's chats."""
        spoken = [f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages]
        return "".join([*spoken, "<|im_start|>assistant\n"])


def _component(folder: Path, library: str | None, class_name: str, dtype: torch.dtype) -> Any:
    if library is None or "Tokenizer" in class_name:
        return None
    kind = component_class(library, class_name)
    if issubclass(kind, nn.Module):
        with torch.device("meta"):
            module = configured_network(folder, library, class_name)
        # Of nn.Module: diffusers' own `to` warns about modules that stay in float32.
        nn.Module.to(module, dtype)
        return module.eval().requires_grad_(False)
    if issubclass(kind, diffusers.SchedulerMixin):
        return configured_scheduler(folder, library, class_name)
    return None


def parameters_of(module: nn.Module) -> int:
    """Return the number of a network's parameters, packed ones included."""
    packed = [each for each in module.modules() if isinstance(each, QuantizedLinear)]
    return sum(parameter.numel() for parameter in module.parameters()) + sum(
        each.in_features * each.out_features for each in packed
    )


def bytes_of(module: nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers, as they are held."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
