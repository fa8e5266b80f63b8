"""Pipelines in memory by id, least recently used first, counted to the byte.

A component that several pipelines hold is one component and counted once. Bytes are those of the
storages behind parameters and buffers, so that tied tensors and views count once too.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from loba_tui.core.associate.machine import dtype_name

Place = tuple[str, str]
"""Device and dtype, such as ("cuda:0", "bfloat16")."""


@dataclass(frozen=True)
class ResidentComponent:
    """One component in memory, as status.json shows it.

    Attributes:
        models: The models that hold it; none where it was let go of and somebody else still has it.
    """

    name: str
    models: tuple[str, ...]
    bytes_by: Mapping[Place, int]

    @property
    def num_bytes(self) -> int:
        """All its bytes."""
        return sum(self.bytes_by.values())

    @property
    def device(self) -> str:
        """Where most of it lies."""
        return self._most()[0]

    @property
    def dtype(self) -> str:
        """Number format of most of it."""
        return self._most()[1]

    def _most(self) -> Place:
        return max(self.bytes_by, key=lambda place: self.bytes_by[place], default=("cpu", ""))

    def as_json(self) -> dict[str, Any]:
        """Return the object that is written."""
        return {
            "component": self.name,
            "models": list(self.models),
            "bytes": self.num_bytes,
            "device": self.device,
            "dtype": self.dtype,
        }


class MemoryCache:
    """Pipelines held by id, in the order of their last use."""

    def __init__(self) -> None:
        self._pipelines: OrderedDict[str, DiffusionPipeline] = OrderedDict()
        self._leases: Counter[str] = Counter()
        # Components outlive their pipelines where a caller keeps them; they take memory still.
        self._names: MutableMapping[nn.Module, str] = weakref.WeakKeyDictionary()

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._pipelines

    def __iter__(self) -> Iterator[str]:
        """Yield ids, least recently used first."""
        return iter(tuple(self._pipelines))

    def __len__(self) -> int:
        return len(self._pipelines)

    def get(self, model_id: str) -> DiffusionPipeline | None:
        """Return a pipeline and mark it as used just now; None if it is not resident."""
        pipeline = self._pipelines.get(model_id)
        if pipeline is not None:
            self._pipelines.move_to_end(model_id)
        return pipeline

    def peek(self, model_id: str) -> DiffusionPipeline | None:
        """Return a pipeline and leave the order of use as it is."""
        return self._pipelines.get(model_id)

    def put(self, model_id: str, pipeline: DiffusionPipeline) -> None:
        """Hold a pipeline as the most recently used one."""
        self._pipelines[model_id] = pipeline
        self._pipelines.move_to_end(model_id)
        self.notice(pipeline)

    def notice(self, pipeline: DiffusionPipeline) -> None:
        """Take note of a held pipeline's components, so that they count until they are gone."""
        self._names.update({module: name for name, module in modules_of(pipeline).items()})

    def pop(self, model_id: str) -> DiffusionPipeline | None:
        """Stop holding a pipeline and return it; None if it was not held."""
        return self._pipelines.pop(model_id, None)

    @contextmanager
    def lease(self, model_id: str) -> Iterator[None]:
        """Keep a model from being evicted."""
        self._leases[model_id] += 1
        try:
            yield
        finally:
            self._leases[model_id] -= 1

    def evict(self, model_id: str) -> bool:
        """Let a pipeline go that nobody else uses, and say whether it went.

        One that is leased, or that a caller has a reference to, stays, also in the order of use.
        """
        if self._leases[model_id] or model_id not in self._pipelines:
            return False
        order = list(self._pipelines)
        watched = weakref.ref(self._pipelines.pop(model_id))
        gc.collect()
        held = watched()
        if held is None:
            return True
        self._pipelines[model_id] = held
        for each in order[order.index(model_id) + 1 :]:
            self._pipelines.move_to_end(each)
        return False

    def holders(self, module: nn.Module) -> list[str]:
        """Return the models whose pipelines have a component."""
        return [
            model_id
            for model_id, pipeline in self._pipelines.items()
            if any(each is module for each in modules_of(pipeline).values())
        ]

    def resident(self) -> list[ResidentComponent]:
        """Return every component once, in the order of their models' use, the unheld ones last."""
        holders: dict[nn.Module, list[str]] = {}
        names: dict[nn.Module, str] = {}
        for model_id, pipeline in self._pipelines.items():
            for name, module in modules_of(pipeline).items():
                holders.setdefault(module, []).append(model_id)
                names.setdefault(module, name)
        for module, name in list(self._names.items()):
            holders.setdefault(module, [])
            names.setdefault(module, name)
        seen: set[object] = set()
        return [
            ResidentComponent(names[module], tuple(models), bytes_by_place([module], seen))
            for module, models in holders.items()
        ]

    def num_bytes(self, device: torch.device) -> int:
        """Return what all components take on one device."""
        return sum(bytes_on(device, component.bytes_by) for component in self.resident())


def bytes_on(device: torch.device, bytes_by: Mapping[Place, int]) -> int:
    """Return how many of some bytes lie on a device; without a number it is the first."""
    wanted = (device.type, device.index or 0)
    places = [(torch.device(name), size) for (name, _), size in bytes_by.items()]
    return sum(size for place, size in places if (place.type, place.index or 0) == wanted)


def modules_of(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """Return a pipeline's networks by name."""
    return {
        name: module
        for name, module in pipeline.components.items()
        if isinstance(module, nn.Module)
    }


def bytes_by_place(
    modules: Iterable[nn.Module], seen: set[object] | None = None
) -> dict[Place, int]:
    """Return the bytes of parameters and buffers by device and dtype, each storage once.

    `seen` are storages that were counted already; it is added to.
    """
    seen = set() if seen is None else seen
    found: dict[Place, int] = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            # Of a tensor that several processes share, what this one holds.
            own = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            storage = own.untyped_storage()
            # Tensors on the meta device have no address; each is its own storage.
            address = (str(tensor.device), storage.data_ptr() or id(tensor))
            if storage.nbytes() and address not in seen:
                seen.add(address)
                place = (str(tensor.device), dtype_name(tensor.dtype))
                found[place] = found.get(place, 0) + storage.nbytes()
    return found
