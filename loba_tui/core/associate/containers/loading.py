"""From a model's folder to a pipeline in memory: checked, quiet, and without the network."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from torch import nn

from loba_tui.core.associate.containers.registry import check_supported
from loba_tui.core.associate.pipeline_files import check_shards, used_names
from loba_tui.core.associate.safe_files import PICKLE_SUFFIXES, check_safetensors, refuse_pickle
from loba_tui.core.associate.sources.locate import ModelSource, read_index, without_unused
from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.names import check_variant

_MOST_TOKENS = 1_000_000


def load_pipeline(
    source: ModelSource,
    *,
    dtype: torch.dtype,
    variant: str | None = None,
    given: Mapping[str, nn.Module | None] | None = None,
) -> DiffusionPipeline:
    """Load a pipeline on the CPU, every component in `dtype`, in evaluation mode and frozen.

    What is `given` is not loaded but taken as it is, or left out where it is None.

    Raises:
        RecipeError: A model family without a container, or a variant the folder does not have.
        RefusedError: A component whose weights are pickles only.
        CorruptError: Files that are damaged or missing.
    """
    index = read_index(source)
    check_supported(index["_class_name"], source.id)
    components = component_names(source)
    given = given or {}
    components = [name for name in components if name not in given]
    _check_weights(source, components)
    with quiet_progress():
        try:
            # The dtype is given always: without it text encoders keep the file's and the rest
            # becomes float32, which do not run together.
            pipeline = DiffusionPipeline.from_pretrained(
                source.folder,
                dtype=dtype,
                variant=_variant_there(source, components, variant),
                use_safetensors=True,
                local_files_only=True,
                **without_unused(index),
                **given,
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise CorruptError(
                f"{source.id} cannot be loaded: {_first_line(error)}",
                "Fetch or save the model again; all its files have to be of one version.",
            ) from error
    pipeline.set_progress_bar_config(disable=True)
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module) and name not in given:
            component.eval().requires_grad_(False)
        if getattr(component, "model_max_length", 0) > _MOST_TOKENS:
            # What transformers makes of an empty folder, or of a configuration without a limit.
            raise CorruptError(
                f"{source.id}: its {name} does not say how many tokens a prompt may have.",
                "Fetch or save the model again; model_max_length is in tokenizer_config.json.",
            )
    return pipeline


def load_components(
    source: ModelSource, names: Collection[str], *, dtype: torch.dtype, variant: str | None
) -> dict[str, nn.Module]:
    """Load some components alone, as `load_pipeline` does; its errors are raised here too."""
    others = {name: None for name in component_names(source) if name not in names}
    pipeline = load_pipeline(source, dtype=dtype, variant=variant, given=others)
    return {name: pipeline.components[name] for name in names}


def component_names(source: ModelSource) -> list[str]:
    """Return what a model's index names: networks, tokenizers and the scheduler."""
    return used_names(read_index(source))


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Switch the loading bars of diffusers and transformers off, and back to what they were.

    Neither takes an argument for it, and bars would break the progress line and the log.
    """
    modules = [
        module
        for module in (diffusers.utils.logging, transformers.utils.logging)
        if module.is_progress_bar_enabled()
    ]
    for module in modules:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in modules:
            module.enable_progress_bar()


def _check_weights(source: ModelSource, components: list[str]) -> None:
    """Check that components are there, their weights' headers, and that none has pickles only."""
    for component in components:
        folder = source.folder / component
        if not folder.is_dir():
            # diffusers would make a tokenizer of nothing, which takes prompts of any length.
            raise CorruptError(
                f"{source.id}: its {component} is missing.", "Fetch or save the model again."
            )
        check_shards(folder)
        weights = sorted(folder.glob("*.safetensors"))
        try:
            for path in weights:
                check_safetensors(path)
        except OSError as error:
            raise CorruptError(
                f"{source.id}: {component}/{path.name} cannot be read: {error.strerror or error}.",
                "Fetch or save the model again.",
            ) from error
        if not weights:
            for path in sorted(p for p in folder.glob("*") if p.suffix in PICKLE_SUFFIXES):
                refuse_pickle(path)


def _variant_there(source: ModelSource, components: list[str], variant: str | None) -> str | None:
    """Return the variant to ask diffusers for, or say that no component has it."""
    if variant is None:
        return None
    check_variant(variant)
    names = [p.name for c in components for p in (source.folder / c).glob("*.safetensors")]
    if not any(f".{variant}" in name for name in names):
        raise RecipeError(
            f"base_model.variant: {source.id} has no {variant} weights.",
            "Leave variant out; dtype alone decides what the weights become.",
        )
    return variant


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
