"""ZeRO-3: each process holds a share of every weight of the base model, by DeepSpeed.

Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054. DeepSpeed gathers the weights of a layer
while it computes, forward and backward, and lets them go after that. The adapter is hidden from
it: its parameters are whole and equal on every process, as they are small, and their gradients are
averaged by one collective a step. So its optimizer is the recipe's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.engines.fsdp2 import Fsdp2
from loba_tui.core.program.engines.zero.library import configuration, load_deepspeed
from loba_tui.core.program.processes import Processes


class ShardedBase(Fsdp2):
    """The engine by which several processes shard the frozen base model by DeepSpeed.

    Args:
        offload: Whether a process's share waits in main memory.
    """

    def __init__(self, accelerator: Accelerator, processes: Processes, *, offload: bool) -> None:
        super().__init__(accelerator, processes)
        self._offload = offload
        self._deepspeed = load_deepspeed(accelerator.device.type)

    def _shard(self, denoiser: nn.Module, adapter: list[nn.Parameter]) -> None:
        with _hidden_adapter(denoiser):
            self._zero, *_ = self._deepspeed.initialize(
                model=denoiser,
                config=configuration(3, offload=self._offload, kept_whole=_small(denoiser)),
            )

    def num_parameters(self, denoiser: nn.Module) -> int:
        """Return the number of all elements; a weight that is divided is empty by itself."""
        return sum(
            int(getattr(parameter, "ds_numel", parameter.numel()))
            for parameter in denoiser.parameters()
        )

    def num_held(self, denoiser: nn.Module) -> int:
        """Return the elements of this process's shares, and of what is whole everywhere."""
        return sum(map(_num_held, denoiser.parameters()))

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-step's loss, and let all gathered weights go."""
        super().backward(loss)
        # A layer whose input took no gradient has no end of its own in a backward pass.
        self._zero.optimizer.release_backward_leftovers()


def _num_held(parameter: Any) -> int:
    """Return the elements of a weight on this process; a whole one is beside its share."""
    if not hasattr(parameter, "ds_tensor"):
        return int(parameter.numel())
    whole = parameter.ds_numel if parameter.ds_persist else 0
    return int(parameter.ds_tensor.numel() + whole)


@contextmanager
def _hidden_adapter(denoiser: nn.Module) -> Iterator[None]:
    """Take every module that holds trained parameters out of a denoiser inside a `with` block.

    Raises:
        RecipeError: A module holds frozen weights beside trained ones.
    """
    taken: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(denoiser.modules()):
        for name, child in list(parent.named_children()):
            own = [parameter.requires_grad for parameter in child.parameters(recurse=False)]
            if any(own) and not all(own):
                raise RecipeError(
                    "parallel.zero_stage: 3 cannot divide a layer that is trained in part",
                    "Take parallel.engine: ddp.",
                )
            if any(own):
                taken.append((parent, name, child))
    for parent, name, _ in taken:
        del parent._modules[name]
    try:
        yield
    finally:
        for parent, name, child in taken:
            parent._modules[name] = child


def _small(denoiser: nn.Module) -> int:
    """Return the size up to which weights are together a hundredth of a denoiser at most.

    They are most of its weights by number, and to gather one takes as long as to gather a large
    one: the latency of a collective.
    """
    sizes = sorted(parameter.numel() for parameter in denoiser.parameters())
    room, largest = sum(sizes) // 100, 0
    for size, equals in groupby(sizes):
        room -= size * len(list(equals))
        if room < 0:
            break
        largest = size
    return largest
