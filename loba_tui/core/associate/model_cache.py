"""Load, hold and unload diffusers pipelines on one device, by their id.

cache = ModelCache(device="cuda:122")
pipe = cache.load("stabilityai/stable-diffusion-xl-base-1.0")
cache.unload("stabilityai/stable-diffusion-xl-base-1.0")
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from diffusers import DiffusionPipeline
from torch import nn

from loba_tui.core.associate.caches.memory.budget import Budget
from loba_tui.core.associate.caches.memory.components import (
    Components,
    LoadedAs,
    check_names,
    find_shared,
    is_hooked,
    move_all_but,
    remove_components,
)
from loba_tui.core.associate.caches.memory.release import empty_accelerator, is_freed
from loba_tui.core.associate.caches.memory.resident import (
    MemoryCache,
    ResidentComponent,
    bytes_by_place,
    bytes_on,
    modules_of,
)
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.containers.loading import (
    OnRead,
    as_read,
    component_names,
    load_components,
    load_pipeline,
)
from loba_tui.core.associate.containers.registry import make_container
from loba_tui.core.associate.devices import resolve_device, resolve_dtype
from loba_tui.core.associate.sources.hub_snapshot import OnFetch
from loba_tui.core.associate.sources.locate import ModelSource, locate
from loba_tui.core.associate.sources.overrides import NO_OVERRIDES, Overrides
from loba_tui.core.associate.sources.weights import weights_bytes
from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.text import did_you_mean


class ModelCache:
    """Pipelines on one device, each loaded once, within a budget of bytes if there is one.

    Components of the same class, files and dtype are loaded once and shared between pipelines, all
    but the network that is trained. What is over the budget goes out by last use, oldest first;
    never what a caller still has a reference to, or holds by `using`.

    Args:
        device: auto, cpu, mps, cuda, cuda:N or cuda:122 (CUDA 12.2 or newer of this process).
        dtype: Dtype of base weights, by torch's or the recipe's name; None is auto.
        local_rank: This process among those of its host.
        max_bytes: The most that weights may take on the device; None sets no limit.
        on_host: Components that stay on the CPU where a pipeline is moved: the caller moves them.
        on_fetch: Told how far a model is fetched from the hub; from several threads.
        on_read: Told each network as soon as it is read.

    Raises:
        ResourceError: The device is not there.
    """

    def __init__(
        self,
        device: str = "auto",
        dtype: torch.dtype | str | None = None,
        *,
        local_rank: int = 0,
        max_bytes: int | None = None,
        on_host: Collection[str] = (),
        on_fetch: OnFetch = lambda done, total: None,
        on_read: OnRead = as_read,
    ) -> None:
        self.device = resolve_device(device, local_rank=local_rank)
        self.dtype = resolve_dtype(dtype or "auto", self.device)
        self._on_host, self._on_fetch = on_host, on_fetch
        self._load_pipeline = partial(load_pipeline, dtype=self.dtype, on_read=on_read)
        self._load_components = partial(load_components, dtype=self.dtype, on_read=on_read)
        self._memory = MemoryCache()
        self._loaded: dict[str, LoadedAs] = {}
        self._located: dict[tuple[str, str | None, str | None, Overrides], ModelSource] = {}
        self._budget = Budget(self._memory, self.device, max_bytes, self._forget)

    def load(
        self,
        model_id: str,
        revision: str | None = None,
        variant: str | None = None,
        overrides: Overrides = NO_OVERRIDES,
        *,
        to_device: bool = True,
        leave_out: Collection[str] = (),
    ) -> DiffusionPipeline:
        """Return the pipeline of a model, loading it unless it is resident.

        Args:
            model_id: builtin:NAME, a diffusers folder, a .safetensors checkpoint, or a hub id.
            revision, variant: Hub branch, tag or commit; weight variant, such as fp16.
            overrides: What the model has otherwise than it says itself.
            to_device: Move it to the cache's device; False leaves it on the CPU for offloading.
            leave_out: Components that need not be there yet; `onload` brings them.

        Raises:
            RecipeError: There is no such model, or it is resident as another revision or variant.
            ResourceError: It does not fit into the budget beside what is in use.
        """
        asked = (revision, variant, overrides)
        pipeline = self._memory.get(model_id)
        if pipeline is not None:
            if model_id in self._loaded:
                self._loaded[model_id].require(asked, model_id)
            if missing := set(self.left_out(model_id)) - set(leave_out):
                self.onload(model_id, *missing)
            return pipeline
        source = self.locate(model_id, revision, variant, overrides)
        names = component_names(source)
        shared = self._shared(source, variant, [each for each in names if each not in leave_out])
        wanted = [name for name in names if name not in leave_out and name not in shared]
        if to_device:
            size = weights_bytes(source, wanted, dtype=self.dtype, variant=variant)
            self._budget.make_room(size, model_id)
        given = {**dict.fromkeys(each for each in leave_out if each in names), **shared}
        pipeline = self._load_pipeline(source, variant=variant, given=given)
        if to_device:
            move_all_but(pipeline, self._on_host, self.device)
        self._memory.put(model_id, pipeline)
        self._loaded[model_id] = LoadedAs(asked, source, to_device, set(given) - set(shared))
        try:
            self._budget.make_room(0, model_id)  # buffers that no file has count as well
        except ResourceError:
            del pipeline, shared, given
            self.unload(model_id)
            raise
        return pipeline

    def locate(
        self,
        model_id: str,
        revision: str | None = None,
        variant: str | None = None,
        overrides: Overrides = NO_OVERRIDES,
    ) -> ModelSource:
        """Return where a model's files lie, fetching them if need be; the hub is asked once."""
        asked = (model_id, revision, variant, overrides)
        if asked not in self._located:
            self._located[asked] = locate(*asked, on_fetch=self._on_fetch)
        return self._located[asked]

    def get(self, model_id: str) -> DiffusionPipeline | None:
        """Return a resident pipeline, or None; nothing is loaded."""
        return self._memory.get(model_id)

    def put(self, model_id: str, pipeline: DiffusionPipeline) -> None:
        """Hold a pipeline that was made elsewhere; one of the same id is let go of.

        Raises:
            ResourceError: It does not fit into the budget beside what is in use.
        """
        modules = modules_of(pipeline).values()
        # No list of what others hold: it would keep that in memory while room is made.
        new = [module for module in modules if not self._memory.holders(module)]
        self._budget.make_room(bytes_on(self.device, bytes_by_place(new)), model_id)
        self._memory.put(model_id, pipeline)
        self._loaded.pop(model_id, None)

    @contextmanager
    def using(self, model_id: str) -> Iterator[DiffusionPipeline]:
        """Lend a resident pipeline; meanwhile it is not evicted.

        Raises:
            RecipeError: It is not resident.
        """
        with self._memory.lease(model_id):
            yield self._resident(model_id)

    def unload(self, model_id: str, *components: str) -> bool:
        """Let a pipeline, or some of its components, go and free their memory.

        Args:
            components: Which; without any, the whole pipeline. `onload` brings them back.

        Returns:
            Whether the memory was freed; what a caller still holds is off the accelerator at least.

        Raises:
            RecipeError: The model has no such component, or it is not in memory.
        """
        if model_id not in self._memory:
            return False
        pipeline = self._resident(model_id)
        going = self._named(model_id, components)
        alone = [module for module in going.values() if self._memory.holders(module) == [model_id]]
        watched: list[weakref.ref[object]] = [weakref.ref(module) for module in alone]
        if components:
            remove_components(pipeline, list(going))
            if model_id in self._loaded:
                self._loaded[model_id].left_out.update(going)
        else:
            pipeline.remove_all_hooks()
            self._memory.pop(model_id)
            self._loaded.pop(model_id, None)
            watched.append(weakref.ref(pipeline))
        del pipeline, going, alone
        return is_freed(model_id, watched, self.device)

    def offload(self, model_id: str, *components: str) -> None:
        """Move a pipeline, or some of its components, from the accelerator to the CPU's memory.

        A component that another pipeline shares is offloaded for that one too.

        Raises:
            RecipeError: There is no such component, or nowhere to move it to.
        """
        if self.device.type == "cpu":
            raise RecipeError(
                "there is nowhere to offload to: the device is the CPU",
                "Unloading frees the memory; the component is loaded again when it is needed.",
            )
        if is_hooked(self._resident(model_id)):
            raise RecipeError(
                f"{model_id} is offloaded by itself already, as base_model.offload asks for",
                "Set base_model.offload: none to move its components by hand.",
            )
        for module in self._named(model_id, components).values():
            module.to("cpu")
        torch.accelerator.empty_cache()

    def onload(self, model_id: str, *components: str) -> None:
        """Bring components back to the device, loading what was unloaded.

        Args:
            components: Which; without any, all that the model has.

        Raises:
            RecipeError: There is no such component, or it was unloaded and came from elsewhere.
            ResourceError: It does not fit into the budget beside what is in use.
        """
        pipeline, loaded = self._resident(model_id), self._loaded.get(model_id)
        left_out = self.left_out(model_id)
        names = list(components) or [*modules_of(pipeline), *left_out]
        here = [name for name in names if name not in left_out]
        if loaded is not None and len(here) < len(names):
            missing = [name for name in names if name in left_out]
            self._bring_back(pipeline, model_id, loaded, missing)
        modules = self._named(model_id, here).values()
        if here and self.device.type != "cpu" and (loaded is None or loaded.to_device):
            sizes = bytes_by_place(modules)
            self._budget.make_room(sum(sizes.values()) - bytes_on(self.device, sizes), model_id)
            for module in modules:
                module.to(self.device)

    def holds(self, pipeline: DiffusionPipeline) -> bool:
        """Say whether a pipeline is resident here, under whatever id."""
        return any(self._memory.peek(each) is pipeline for each in self._memory)

    def left_out(self, model_id: str) -> list[str]:
        """Return the components of a model that are not in memory and can be brought back."""
        return sorted(self._loaded[model_id].left_out) if model_id in self._loaded else []

    def source(self, model_id: str) -> ModelSource | None:
        """Return where a resident model's files lie; None for one that was `put`."""
        return self._loaded[model_id].source if model_id in self._loaded else None

    def container(
        self,
        model_id: str,
        revision: str | None = None,
        variant: str | None = None,
        overrides: Overrides = NO_OVERRIDES,
        *,
        to_device: bool = True,
        leave_out: Collection[str] = (),
    ) -> ModelContainer:
        """Return a model's container, which brings components back; loads as `load` does."""
        pipeline = self.load(
            model_id, revision, variant, overrides, to_device=to_device, leave_out=leave_out
        )
        container = make_container(pipeline, model_id, self.source(model_id))
        container.memory = Components(weakref.ref(self), model_id, weakref.ref(pipeline))
        return container

    @property
    def max_bytes(self) -> int | None:
        """The most that weights may take on the device; None sets no limit."""
        return self._budget.max_bytes

    def resident(self) -> list[ResidentComponent]:
        """Return what is in memory, component by component, each once."""
        return self._memory.resident()

    def num_bytes(self) -> int:
        """Return what all components take on the cache's device, let go of or not."""
        return self._memory.num_bytes(self.device)

    def _resident(self, model_id: str) -> DiffusionPipeline:
        pipeline = self._memory.peek(model_id)
        if pipeline is None:
            raise RecipeError(
                f"{model_id} is not loaded",
                did_you_mean(model_id, list(self._memory), "Load it first."),
            )
        return pipeline

    def _named(self, model_id: str, components: Collection[str]) -> dict[str, nn.Module]:
        """Return networks by name, all of the model's where none are named."""
        modules = modules_of(self._resident(model_id))
        check_names(components, model_id, modules, self.left_out(model_id))
        return {name: modules[name] for name in components or modules}

    def _shared(
        self, source: ModelSource, variant: str | None, names: Collection[str]
    ) -> dict[str, nn.Module]:
        candidates = [
            (modules_of(self._resident(each)), loaded) for each, loaded in self._loaded.items()
        ]
        return find_shared(candidates, source, variant, names=names, dtype=self.dtype)

    def _bring_back(
        self, pipeline: DiffusionPipeline, model_id: str, loaded: LoadedAs, names: Sequence[str]
    ) -> None:
        shared = self._shared(loaded.source, variant := loaded.asked[1], names)
        wanted = [name for name in names if name not in shared]
        size = weights_bytes(loaded.source, wanted, dtype=self.dtype, variant=variant)
        self._budget.make_room(size if loaded.to_device else 0, model_id)
        made = self._load_components(loaded.source, wanted, variant=variant)
        for component in made.values() if loaded.to_device else ():
            if isinstance(component, nn.Module):
                component.to(self.device)
        was_hooked = is_hooked(pipeline)
        pipeline.register_modules(**made, **shared)
        if was_hooked:  # the new ones have to take part in it
            pipeline.enable_model_cpu_offload(device=self.device)
        loaded.left_out.difference_update(names)
        self._memory.notice(pipeline)

    def _forget(self, model_id: str) -> None:
        self._loaded.pop(model_id, None)
        empty_accelerator(self.device)
