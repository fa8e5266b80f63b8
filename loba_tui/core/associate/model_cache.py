"""Load, hold and unload diffusers pipelines on one device, by their id.

cache = ModelCache(device="cuda:122")
pipe = cache.load("stabilityai/stable-diffusion-xl-base-1.0")
cache.unload("stabilityai/stable-diffusion-xl-base-1.0")
"""

from __future__ import annotations

import gc
import logging
import weakref
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from loba_tui.core.associate.caches.memory import MemoryCache, ResidentComponent
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.containers.loading import load_pipeline
from loba_tui.core.associate.containers.registry import make_container
from loba_tui.core.associate.containers.sources import ModelSource, locate
from loba_tui.core.associate.devices import resolve_device, resolve_dtype
from loba_tui.core.errors import RecipeError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Loaded:
    """What a resident model was asked for as, and what came of it."""

    asked: tuple[str | None, str | None]
    source: ModelSource


class ModelCache:
    """Pipelines on one device, each loaded once."""

    def __init__(
        self,
        device: str = "auto",
        dtype: torch.dtype | str | None = None,
        *,
        local_rank: int = 0,
    ) -> None:
        """Settle on a device; nothing is loaded yet.

        Args:
            device: auto, cpu, mps, cuda, cuda:N or cuda:122 (CUDA 12.2 or newer of this process).
            dtype: Dtype of base weights, by torch's or the recipe's name; None is auto.
            local_rank: This process among those of its host.

        Raises:
            ResourceError: The device is not there.
        """
        self.device = resolve_device(device, local_rank=local_rank)
        self.dtype = (
            dtype if isinstance(dtype, torch.dtype) else resolve_dtype(dtype or "auto", self.device)
        )
        self._memory = MemoryCache()
        self._loaded: dict[str, _Loaded] = {}

    def load(
        self,
        model_id: str,
        revision: str | None = None,
        variant: str | None = None,
        *,
        to_device: bool = True,
    ) -> DiffusionPipeline:
        """Return the pipeline of a model, loading it unless it is resident.

        Args:
            model_id: builtin:NAME, a diffusers folder, or a hub id.
            revision: Hub branch, tag or commit.
            variant: Weight variant, such as fp16.
            to_device: Move it to the cache's device; False leaves it on the CPU for offloading.
        """
        asked = (revision, variant)
        pipeline = self._memory.get(model_id)
        if pipeline is not None:
            loaded = self._loaded.get(model_id)
            if loaded is not None and loaded.asked != asked:
                raise RecipeError(
                    f"{model_id} is loaded already, of another revision or variant.",
                    f"Call unload({model_id!r}) first.",
                )
            return pipeline
        source = locate(model_id, revision, variant)
        pipeline = load_pipeline(source, dtype=self.dtype, variant=variant)
        if to_device:
            pipeline.to(self.device)
        self._memory.put(model_id, pipeline)
        self._loaded[model_id] = _Loaded(asked, source)
        return pipeline

    def get(self, model_id: str) -> DiffusionPipeline | None:
        """Return a resident pipeline, or None; nothing is loaded."""
        return self._memory.get(model_id)

    def put(self, model_id: str, pipeline: DiffusionPipeline) -> None:
        """Hold a pipeline that was made elsewhere; one of the same id is let go of."""
        self._memory.put(model_id, pipeline)
        self._loaded.pop(model_id, None)

    def unload(self, model_id: str) -> bool:
        """Let a pipeline go and free its memory.

        Returns:
            Whether its memory was freed. False where the model was not resident, or where a caller
            still holds the pipeline; then its weights are moved off the accelerator at least.
        """
        pipeline = self._memory.pop(model_id)
        self._loaded.pop(model_id, None)
        if pipeline is None:
            return False
        pipeline.remove_all_hooks()
        still_there = weakref.ref(pipeline)
        del pipeline
        gc.collect()
        held = still_there()
        if held is not None and self.device.type != "cpu":
            held.to("cpu")
        if self.device.type != "cpu":
            torch.accelerator.empty_cache()
        if held is not None:
            logger.warning("%s is unloaded, but its pipeline is still held elsewhere", model_id)
        return held is None

    def source(self, model_id: str) -> ModelSource | None:
        """Return where a resident model's files lie; None for one that was `put`."""
        loaded = self._loaded.get(model_id)
        return None if loaded is None else loaded.source

    def container(
        self,
        model_id: str,
        revision: str | None = None,
        variant: str | None = None,
        *,
        to_device: bool = True,
    ) -> ModelContainer:
        """Return the container of a model's pipeline, loading it as `load` does."""
        pipeline = self.load(model_id, revision, variant, to_device=to_device)
        source = self.source(model_id)
        return make_container(pipeline, model_id, source.revision if source else None)

    def resident(self) -> list[ResidentComponent]:
        """Return what is in memory, component by component."""
        return self._memory.resident()
