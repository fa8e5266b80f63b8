"""What is resident in memory: pipelines by id, least recently used first, with their sizes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

_MIB = 2**20


@dataclass(frozen=True)
class ResidentComponent:
    """One component of a loaded pipeline, as status.json shows it."""

    model: str
    name: str
    device: str
    dtype: str
    memory_mib: float


class MemoryCache:
    """Pipelines held by id, in the order of their last use."""

    def __init__(self) -> None:
        """Start with nothing resident."""
        self._pipelines: OrderedDict[str, DiffusionPipeline] = OrderedDict()

    def __contains__(self, model_id: str) -> bool:
        """Whether a model is resident."""
        return model_id in self._pipelines

    def __iter__(self) -> Iterator[str]:
        """Yield ids, least recently used first."""
        return iter(tuple(self._pipelines))

    def __len__(self) -> int:
        """Return how many models are resident."""
        return len(self._pipelines)

    def get(self, model_id: str) -> DiffusionPipeline | None:
        """Return a pipeline and mark it as used just now; None if it is not resident."""
        pipeline = self._pipelines.get(model_id)
        if pipeline is not None:
            self._pipelines.move_to_end(model_id)
        return pipeline

    def put(self, model_id: str, pipeline: DiffusionPipeline) -> None:
        """Hold a pipeline as the most recently used one."""
        self._pipelines[model_id] = pipeline
        self._pipelines.move_to_end(model_id)

    def pop(self, model_id: str) -> DiffusionPipeline | None:
        """Stop holding a pipeline and return it; None if it was not held."""
        return self._pipelines.pop(model_id, None)

    def resident(self) -> list[ResidentComponent]:
        """Return every module of every held pipeline."""
        return [
            component
            for model_id, pipeline in self._pipelines.items()
            for component in pipeline_components(model_id, pipeline)
        ]


def pipeline_components(model_id: str, pipeline: DiffusionPipeline) -> list[ResidentComponent]:
    """Return a pipeline's modules with the memory of their parameters and buffers."""
    found = []
    for name, module in pipeline.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        tensors = [*module.parameters(), *module.buffers()]
        first = tensors[0] if tensors else torch.empty(0)
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        found.append(
            ResidentComponent(
                model=model_id,
                name=name,
                device=str(first.device),
                dtype=str(first.dtype).removeprefix("torch."),
                memory_mib=round(num_bytes / _MIB, 3),
            )
        )
    return found
