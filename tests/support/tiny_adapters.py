"""Adapters of every kind on a tiny model, moved away from the start that changes nothing."""

from __future__ import annotations

import copy
import functools
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.kinds import adapted_module, make_deterministic


def made_folder(path: Path) -> OwnedFolder:
    """Return a folder, which is made if it is missing."""
    path.mkdir(exist_ok=True)
    return OwnedFolder(path)


@functools.cache
def _loaded(folder: Path) -> ModelContainer:
    return ModelCache("cpu", torch.float32).container(str(folder))


def fresh(folder: Path) -> ModelContainer:
    """Return a model with networks of its own; loading it each time takes a second."""
    loaded = _loaded(folder)
    container, pipeline = copy.copy(loaded), copy.copy(loaded.pipeline)
    container.pipeline = pipeline
    for name in ("unet", *loaded.text_encoders):
        setattr(pipeline, name, copy.deepcopy(getattr(loaded.pipeline, name)))
    # What is let go of is this one's, and not that of the next test.
    container.memory = replace(container.memory, pipeline=weakref.ref(pipeline))
    return container


def add_adapter(container: ModelContainer, kind: str, options: dict[str, Any]) -> None:
    """Give a model an adapter of a kind, as it is before training."""
    config = SHIPPED.load("adapters", kind)(container.adapter_targets(), **options)
    container.denoiser.add_adapter(config)
    make_deterministic(container.denoiser, config)


def add_moved_adapter(denoiser: Any, config: Any) -> None:
    """Give a UNet an adapter by PEFT's configuration, and move it as training does."""
    denoiser.add_adapter(config)
    make_deterministic(denoiser, config)
    _move(denoiser, seed=1, is_relative=False)


def move_adapter(container: ModelContainer, *, seed: int = 1, is_relative: bool = True) -> None:
    """Move all parameters of an adapter, as training does.

    Args:
        container: The model that has the adapter.
        seed: Of the noise that is added.
        is_relative: Scale the noise by how large a parameter is.
    """
    _move(container.denoiser, seed=seed, is_relative=is_relative)


def _move(denoiser: Any, *, seed: int, is_relative: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in denoiser.named_parameters():
        if adapted_module(name) != name:
            noise = 0.1 * torch.randn(parameter.shape, generator=generator)
            size = parameter.data.abs().mean().clamp_min(0.5) if is_relative else 1.0
            parameter.data += noise * size
