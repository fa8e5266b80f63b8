"""Fully sharded data parallelism: each process holds a share of every weight of the base model.

Zhao et al. 2023, https://arxiv.org/abs/2304.11277, by torch's own `fully_shard`. A block's weights
are gathered while it computes, forward and backward, and let go after that. The adapter is left out
of it: its parameters are whole and equal on every process, as they are small, and their gradients
are averaged by one collective a step.

Each process loads the whole base and lets the rest of it go after that, so that loading needs what
it needs without shards. Loading on the meta device would need a process's share alone, and would
have to read each weight from its file by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed import all_reduce
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from loba_tui.core.associate.caches.memory.block_offload import blocks_of
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.engines.ddp import Ddp
from loba_tui.core.program.engines.led import LedForwards
from loba_tui.core.program.processes import Processes


class Fsdp2(Ddp):
    """The engine by which several processes shard the frozen base model."""

    forward_needs_all = True

    def __init__(self, accelerator: Accelerator, processes: Processes) -> None:
        super().__init__(accelerator, processes)
        self._led: LedForwards | None = None

    def _prepared_denoiser(self, denoiser: nn.Module, scale: AdapterScale | NoScale) -> nn.Module:
        adapter = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
        self._shard(denoiser, adapter)
        prepared, device = self._in_precision(denoiser), self.accelerator.device
        self._led = LedForwards(denoiser, scale, adapter, self.processes, device)
        return prepared

    def _shard(self, denoiser: nn.Module, adapter: list[nn.Parameter]) -> None:
        """Leave this process its share of a denoiser's weights; the adapter's stay whole."""
        shard(denoiser, adapter, self.accelerator.device, self.processes.num)

    def num_held(self, denoiser: nn.Module) -> int:
        """Return the elements of this process's shares, and of what is whole everywhere."""
        return sum(
            (each.to_local() if isinstance(each, DTensor) else each).numel()
            for each in denoiser.parameters()
        )

    def share_gradients(
        self, parameters: Iterable[nn.Parameter], *, outside: Iterable[nn.Parameter]
    ) -> None:
        """Average all gradients in one collective; `outside` is among the parameters."""
        average_gradients(list(parameters), self.processes.num)

    def led(self) -> AbstractContextManager[bool]:
        """Let the first process compute, and the others make its forwards."""
        assert self._led is not None, "the denoiser is prepared before anything is drawn"
        return self._led.led()


def shard(
    denoiser: nn.Module, adapter: Iterable[nn.Parameter], device: torch.device, num_processes: int
) -> None:
    """Leave a process its share of each weight of a denoiser, in place.

    Each block that the denoiser repeats is gathered by itself; what is left is one group.

    Args:
        adapter: Parameters that stay whole.
    """
    mesh = init_device_mesh(device.type, (num_processes,))
    whole = set(adapter)
    for module in (*blocks_of(denoiser), denoiser):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=whole)


def average_gradients(parameters: list[nn.Parameter], num_processes: int) -> None:
    """Give each parameter the mean of its gradients on all processes, in one collective.

    A process without a gradient counts as zeros; a parameter that has none anywhere keeps none.
    """
    has_any = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
    grads = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in parameters
    ]
    flat = torch.cat([grad.float().flatten() for grad in grads])
    flat = torch.cat([flat, has_any.to(flat.device)])
    all_reduce(flat)
    *means, counts = flat.split([*(grad.numel() for grad in grads), len(parameters)])
    for parameter, mean, count in zip(parameters, means, counts.tolist(), strict=True):
        if count:
            mean = mean.div_(num_processes).view_as(parameter)
            parameter.grad = mean.to(parameter.dtype)
