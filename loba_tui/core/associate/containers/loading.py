"""From a model's folder to a pipeline in memory: checked, quiet, and without the network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from torch import nn

from loba_tui.core.associate.containers.configured import (
    component_class,
    configured_scheduler,
    read_config,
)
from loba_tui.core.associate.containers.fitness import check_files, check_networks, variant_there
from loba_tui.core.associate.containers.one_file import StoredNetwork, network_in, vae_in
from loba_tui.core.associate.containers.registry import check_supported
from loba_tui.core.associate.containers.tokenizers import (
    VOCABULARY_SIZE,
    check_tokenizer,
    open_tokenizer,
)
from loba_tui.core.associate.one_file.header import inspect
from loba_tui.core.associate.pipeline_files import used_names
from loba_tui.core.associate.schedules import is_flow_matching
from loba_tui.core.associate.sources.locate import ModelSource, read_index, without_unused
from loba_tui.core.associate.sources.overrides import AS_IT_IS
from loba_tui.core.associate.sources.shipped import folder_of_family
from loba_tui.core.errors import CorruptError, RecipeError

OnRead = Callable[[str, nn.Module], None]
"""Is told each network of a pipeline, by its name, when its weights are read and on the CPU."""
_MOST_TOKENS = 1_000_000


def as_read(name: str, network: nn.Module) -> None:
    """Leave a network as it is read."""


def load_pipeline(
    source: ModelSource,
    *,
    dtype: torch.dtype,
    variant: str | None = None,
    given: Mapping[str, nn.Module | None] | None = None,
    on_read: OnRead = as_read,
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
    check_networks(source, index)
    given = dict(given or {})
    components = [name for name in component_names(source) if name not in given]
    if source.file is not None:
        pipeline = _from_file(source, index, given, components, dtype)
    else:
        own = [name for name in components if name != "vae" or source.vae is None]
        check_files(source, own)
        variant = variant_there(source, own, variant)
        if source.vae is not None and "vae" in components:
            given["vae"] = _another_vae(source, index, dtype)
        with _explained(source), quiet_progress():
            # The dtype is given always: without it text encoders keep the file's and the rest
            # becomes float32, which do not run together.
            pipeline = DiffusionPipeline.from_pretrained(
                source.folder,
                dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                **without_unused(index),
                **given,
            )
    set_schedule(pipeline, source)
    pipeline.set_progress_bar_config(disable=True)
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module) and name not in given:
            component.eval().requires_grad_(False)
            on_read(name, component)
        if getattr(component, "model_max_length", 0) > _MOST_TOKENS:
            # What transformers makes of an empty folder, or of a configuration without a limit.
            raise CorruptError(
                f"{source.id}: its {name} does not say how many tokens a prompt may have.",
                "Fetch or save the model again; model_max_length is in tokenizer_config.json.",
            )
    return pipeline


def load_components(
    source: ModelSource,
    names: Collection[str],
    *,
    dtype: torch.dtype,
    variant: str | None,
    on_read: OnRead = as_read,
) -> dict[str, nn.Module]:
    """Load some components alone, as `load_pipeline` does; its errors are raised here too."""
    others = {name: None for name in component_names(source) if name not in names}
    pipeline = load_pipeline(source, dtype=dtype, variant=variant, given=others, on_read=on_read)
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


def _from_file(
    source: ModelSource,
    index: Mapping[str, Any],
    given: Mapping[str, nn.Module | None],
    components: Collection[str],
    dtype: torch.dtype,
) -> DiffusionPipeline:
    """Return the pipeline of a checkpoint in one file; all of it is checked before it is read."""
    assert source.file is not None
    checkpoint = inspect(source.file, shown=source.id)
    stored: dict[str, StoredNetwork] = {}
    parts: dict[str, Any] = dict.fromkeys(name for name in index if not name.startswith("_"))
    parts |= {name: index[name] for name in parts if not isinstance(index[name], list)}
    for name in components:
        library, class_name = index[name]
        if name == "vae" and source.vae is not None:
            parts[name] = _another_vae(source, index, dtype)
        elif name.startswith("tokenizer"):
            parts[name] = _tokenizer_of(source, name)
        elif name == "scheduler":
            with _explained(source):
                parts[name] = configured_scheduler(source.folder / name, library, class_name)
        else:
            folder = source.folder / name
            stored[name] = network_in(checkpoint, name, folder, library, class_name)
    parts |= {name: network.load(dtype) for name, network in stored.items()}
    with _explained(source), quiet_progress():
        pipeline: DiffusionPipeline = getattr(diffusers, index["_class_name"])(
            **{**parts, **without_unused(index), **given}
        )
    return pipeline


def _tokenizer_of(source: ModelSource, name: str) -> Any:
    """Return a one-file model's tokenizer, which has to be the one of its text encoder."""
    encoder = name.replace("tokenizer", "text_encoder")
    with _explained(source):
        config = read_config(source.folder / encoder / "config.json")
        tokenizer = open_tokenizer(source.folder / name)
        check_tokenizer(
            tokenizer,
            vocabulary=config.get("vocab_size", VOCABULARY_SIZE),
            positions=config.get("max_position_embeddings", 77),
            what=f"{source.id}: its {name}",
        )
    return tokenizer


def _another_vae(source: ModelSource, index: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    """Return the VAE that the recipe names in place of the model's own."""
    assert source.vae is not None
    library, class_name = index["vae"]
    if source.vae.is_file():
        if class_name != "AutoencoderKL":
            raise RecipeError(
                f"base_model.vae: {source.id} has the VAE class {class_name}, which is read from"
                " folders alone.",
                "Name a diffusers folder with such a VAE.",
            )
        return vae_in(source.vae, vae_configuration(source, index)).load(dtype)
    check_files(source, ["vae"])
    variant = variant_there(source, ["vae"], None)
    with _explained(source), quiet_progress():
        vae: nn.Module = component_class(library, class_name).from_pretrained(
            source.vae,
            torch_dtype=dtype,
            variant=variant,
            local_files_only=True,
            use_safetensors=True,
        )
    return vae.eval().requires_grad_(False)


def vae_configuration(source: ModelSource, index: Mapping[str, Any]) -> Path:
    """Return the folder of the configuration that a VAE in a file is read by."""
    own = source.folder / "vae"
    if (own / "config.json").is_file():
        with suppress(OSError, ValueError):
            if read_config(own / "config.json").get("_class_name") == "AutoencoderKL":
                return own
    is_sdxl = index["_class_name"] == "StableDiffusionXLPipeline"
    return folder_of_family("sdxl" if is_sdxl else "sd1", None) / "vae"


def set_schedule(pipeline: DiffusionPipeline, source: ModelSource) -> None:
    """Give a pipeline the noise schedule that the recipe or the file asks for."""
    scheduler = pipeline.scheduler
    if scheduler is None or source.schedule == AS_IT_IS:
        return
    wanted = source.schedule.prediction_type
    if is_flow_matching(scheduler.config) and wanted not in (None, "flow"):
        raise RecipeError(
            f"base_model.prediction_type: {source.id} is a flow-matching model, and predicts no"
            f" {wanted}",
            "Leave the key out.",
        )
    if source.schedule.zero_snr is not None and (
        wanted == "flow" or is_flow_matching(scheduler.config)
    ):
        raise RecipeError(
            "base_model.zero_snr: it is for diffusion models; flow matching begins at pure noise"
            " in any case",
            "Leave the key out.",
        )
    config = source.schedule.applied(dict(scheduler.config))
    kind = diffusers.FlowMatchEulerDiscreteScheduler if wanted == "flow" else type(scheduler)
    if source.schedule.zero_snr and "rescale_betas_zero_snr" not in scheduler.config:
        kind = diffusers.EulerDiscreteScheduler  # one that can, with the same betas
    pipeline.register_modules(scheduler=kind.from_config(config))


@contextmanager
def _explained(source: ModelSource) -> Iterator[None]:
    """Say of what the libraries raise that the model cannot be loaded."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CorruptError(
            f"{source.id} cannot be loaded: {_first_line(error)}",
            "Fetch or save the model again; all its files have to be of one version.",
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
