"""The parts of a loaded pipeline: which ones two models can share, and how a container has them."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from diffusers import DiffusionPipeline
from torch import nn

from loba_tui.core.associate.caches.memory.resident import modules_of
from loba_tui.core.associate.quantized import DENOISERS
from loba_tui.core.associate.sources.locate import ModelSource
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.associate.sources.weights import is_same_component
from loba_tui.core.errors import RecipeError
from loba_tui.core.text import did_you_mean

TEXT_ENCODERS = frozenset({"text_encoder", "text_encoder_2", "text_encoder_3"})


@dataclass(frozen=True)
class LoadedAs:
    """How a resident model was loaded.

    Attributes:
        asked: Revision, variant, and what the model has otherwise than it says.
        to_device: Whether it was moved to the device, or is offloaded by hooks.
        left_out: Components that are not in memory.
    """

    asked: tuple[str | None, str | None, Overrides]
    source: ModelSource
    to_device: bool
    left_out: set[str] = field(default_factory=set)

    def require(self, asked: tuple[str | None, str | None, Overrides], model_id: str) -> None:
        """Check that what is asked for is what was loaded.

        Raises:
            RecipeError: It is another revision, variant or VAE.
        """
        if asked != self.asked:
            raise RecipeError(
                f"{model_id} is loaded already, of another revision, variant or VAE.",
                f"Call unload({model_id!r}) first.",
            )


class _Cache(Protocol):
    """A ModelCache, as far as containers have to do with it."""

    def holds(self, pipeline: DiffusionPipeline) -> bool: ...
    def onload(self, model_id: str, *components: str) -> None: ...
    def unload(self, model_id: str, *components: str) -> bool: ...


@dataclass(frozen=True)
class Components:
    """Components of a container, brought and dropped by name.

    It keeps no other model alive, and does nothing to a pipeline that took the place of its own.
    """

    cache: weakref.ref[_Cache]
    model_id: str
    pipeline: weakref.ref[DiffusionPipeline]

    def bring(self, names: Sequence[str]) -> None:
        """Load what is not there, and move what is elsewhere to the device."""
        cache = self._cache()
        if cache is not None:
            cache.onload(self.model_id, *names)

    def drop(self, names: Sequence[str]) -> None:
        """Free the memory of components."""
        cache, pipeline = self._cache(), self.pipeline()
        if cache is not None:
            del pipeline
            cache.unload(self.model_id, *names)
        elif pipeline is not None:
            remove_components(pipeline, names)

    def _cache(self) -> _Cache | None:
        cache, pipeline = self.cache(), self.pipeline()
        is_held = cache is not None and pipeline is not None and cache.holds(pipeline)
        return cache if is_held else None


def find_shared(
    candidates: Iterable[tuple[Mapping[str, nn.Module], LoadedAs]],
    source: ModelSource,
    variant: str | None,
    *,
    names: Collection[str],
    dtype: torch.dtype,
) -> dict[str, nn.Module]:
    """Return the components of a model that a resident one has in the very same form.

    `candidates` are the networks of resident models, and how each was loaded.
    """
    found: dict[str, nn.Module] = {}
    for modules, loaded in candidates:
        variants = (loaded.asked[1], variant)
        for name, module in modules.items():
            # An adapter put on a denoiser for one model must not be there for another.
            if name in DENOISERS or name in found or name not in names:
                continue
            # One that was cast or hooked since is not what would be loaded.
            is_plain = _dtypes(module) <= {dtype} and not hasattr(module, "_hf_hook")
            if is_plain and is_same_component(loaded.source, source, name, variants=variants):
                found[name] = module
    return found


def check_names(
    names: Collection[str], model_id: str, modules: Collection[str], left_out: Collection[str]
) -> None:
    """Check that a model has components of these names in memory.

    Raises:
        RecipeError: There is no such component, or it is left out.
    """
    for name in names:
        if name in left_out:
            raise RecipeError(f"{name} of {model_id} is not in memory")
        if name not in modules:
            known = [*modules, *left_out]
            raise RecipeError(
                f"{model_id} has no component {name}",
                did_you_mean(name, known, f"It has {', '.join(known)}."),
            )


def is_hooked(pipeline: DiffusionPipeline) -> bool:
    """Say whether accelerate's hooks move a pipeline's components about."""
    return any(hasattr(module, "_hf_hook") for module in modules_of(pipeline).values())


def move_all_but(
    pipeline: DiffusionPipeline, staying: Collection[str], device: torch.device
) -> None:
    """Move a pipeline to a device; components of these names stay where they are."""
    if not staying:
        pipeline.to(device)
        return
    for name, module in modules_of(pipeline).items():
        if name not in staying:
            module.to(device)


def remove_components(pipeline: DiffusionPipeline, names: Sequence[str]) -> None:
    """Take components out of a pipeline."""
    pipeline.register_modules(**dict.fromkeys(names))


def _dtypes(module: nn.Module) -> set[torch.dtype]:
    return {each.dtype for each in module.parameters() if each.is_floating_point()}
