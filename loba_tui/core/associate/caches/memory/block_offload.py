"""Keeps a network's blocks in main memory and copies each to the device just before it is used.

Two buffers on the device, as large as the largest block, take turns: while one block computes, the
next one is copied into the other by a stream of its own. Which one is next is learned from the
order that blocks are used in, so that it is right for a backward pass too. What the network
computes is the same bit for bit.

Only the weights that are there at the beginning move. What is added to blocks later, such as an
adapter, stays on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

_ALIGNMENT = 256
"""Bytes: what kernels that read several numbers at once want a tensor to begin at."""
_NUM_BUFFERS = 2
_ATTRIBUTE = "_block_offload"


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Return the blocks that a network repeats, innermost ones, in the order of its modules."""
    names = {*(getattr(network, "_no_split_modules", None) or ())}
    names |= {*(getattr(network, "_repeated_blocks", None) or ())}
    blocks = [module for module in network.modules() if type(module).__name__ in names]
    outer = {
        id(block)
        for block in blocks
        if any(type(each).__name__ in names for each in block.modules() if each is not block)
    }
    return [block for block in blocks if id(block) not in outer]


def spread(blocks: Sequence[nn.Module], count: int | None) -> list[nn.Module]:
    """Return so many of the blocks, evenly spread, so that those between hide the copies.

    Args:
        count: None, or more than there are, is all of them.
    """
    num = len(blocks)
    count = num if count is None else min(count, num)
    return [block for i, block in enumerate(blocks) if (i + 1) * count // num > i * count // num]


def resident_bytes(
    network: nn.Module, count: int | None, added: Iterable[Tensor] = ()
) -> tuple[int, int]:
    """Return the bytes of a network's weights that stay on the device, and of both buffers.

    It is enough that tensors have shapes.

    Args:
        count: Blocks that are kept in main memory; None is all of them.
        added: What was added to the network since, which does not count.
    """
    left_out = {id(tensor) for tensor in added}
    groups = [_tensors(block, left_out) for block in spread(blocks_of(network), count)]
    moving = {id(tensor) for group in groups for tensor in group}
    staying = [t for t in _tensors(network, left_out) if id(t) not in moving]
    largest = max((_layout(group)[1] for group in groups), default=0)
    return sum(map(_num_bytes, staying)), _NUM_BUFFERS * largest


@dataclass
class _Buffer:
    """Memory on the device that blocks take turns in.

    Attributes:
        free: What has to have happened before it can be filled again.
        ready: What has to have happened before it can be read.
    """

    memory: Tensor
    block: _Block | None = None
    free: Any = None
    ready: Any = None


class _Block:
    """The weights of one block: in main memory, and as they lie in each buffer."""

    def __init__(self, tensors: Sequence[Tensor], *, pinned: bool) -> None:
        self._tensors = tensors
        self._starts, self.num_bytes = _layout(tensors)
        self.memory = torch.empty(self.num_bytes, dtype=torch.uint8, pin_memory=pinned)
        self.away = self.views(self.memory)
        for tensor, view in zip(tensors, self.away, strict=True):
            view.copy_(tensor.data)
        self.point_to(self.away)

    def views(self, memory: Tensor) -> list[Tensor]:
        """Return the weights as they lie in some bytes."""
        return [
            memory[start : start + _num_bytes(tensor)]
            .view(tensor.dtype)
            .as_strided(tensor.shape, tensor.stride(), start // tensor.element_size())
            for start, tensor in zip(self._starts, self._tensors, strict=True)
        ]

    def point_to(self, views: Sequence[Tensor]) -> None:
        for tensor, view in zip(self._tensors, views, strict=True):
            tensor.data = view


@dataclass(frozen=True)
class _SavedWeight:
    """Stands for a weight among what autograd keeps: the weight itself may be gone by then."""

    block: _Block
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


class BlockOffload:
    """Moves a network's blocks to the device and away, each time they are called.

    Args:
        network: On the CPU; all but its blocks is moved to the device.
        count: How many of the blocks stay in main memory; None is all of them.
        looks_for_added: Look at each call for what was added to the network, not only for PEFT's
            adapters of a diffusers model: what is called seldom can.

    Attributes:
        num_copies: Blocks that were copied to the device.
        num_waits: Those of them that nothing else was computed beside.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        count: int | None = None,
        *,
        looks_for_added: bool = False,
    ) -> None:
        self._looks_for_added = looks_for_added
        self.num_copies = self.num_waits = 0
        self._network, self._device = network, device
        self._on_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._on_cuda else None
        self._adapters: tuple[str, ...] = ()
        modules = spread(blocks_of(network), count)
        self._blocks = [_Block(_tensors(each), pinned=self._on_cuda) for each in modules]
        self._moving = {id(tensor) for each in modules for tensor in _tensors(each)}
        largest = max((block.num_bytes for block in self._blocks), default=0)
        self._buffers = [
            _Buffer(torch.empty(largest, dtype=torch.uint8, device=device))
            for _ in range(_NUM_BUFFERS)
        ]
        if self._stream is not None:
            computing = torch.cuda.current_stream(device)
            for buffer in self._buffers:
                # Its memory may have been another tensor's that is still computed with, and may
                # become one's before a copy into it is done.
                buffer.free = computing.record_event()
                buffer.memory.record_stream(self._stream)
        self._views = {
            (id(block), id(buffer)): block.views(buffer.memory)
            for block in self._blocks
            for buffer in self._buffers
        }
        self._current: _Buffer | None = None
        self._before: _Block | None = None
        self._next: dict[tuple[int, int], _Block] = {}
        self._checkpoints = 0
        self._packing: AbstractContextManager[None] | None = None
        for module, block in zip(modules, self._blocks, strict=True):
            module.register_forward_pre_hook(self._entering(block))
            module.register_forward_hook(self._left, always_call=True)
        network.register_forward_pre_hook(self._take_in_added)
        object.__setattr__(network, _ATTRIBUTE, self)
        self.take_in()

    def take_in(self) -> None:
        """Move what is in the network and does not belong to a block's own weights to the device.

        To be called once an adapter was attached: PEFT puts it where it finds the weights.
        """
        for tensor in _tensors(self._network):
            if id(tensor) not in self._moving and tensor.device != self._device:
                tensor.data = tensor.data.to(self._device)

    def checkpoint(self, module: nn.Module, *args: Any) -> Any:
        """Run a part of the network and recompute it in the backward pass.

        To be given to diffusers' `enable_gradient_checkpointing`. A checkpoint keeps no weight, so
        that nothing has to be put in the place of one.
        """
        return checkpoint(
            module,
            *args,
            use_reentrant=False,
            context_fn=lambda: (self._in_checkpoint(), self._in_checkpoint()),
        )

    @contextmanager
    def _in_checkpoint(self) -> Iterator[None]:
        self._checkpoints += 1
        try:
            yield
        finally:
            self._checkpoints -= 1

    def _take_in_added(self, _module: nn.Module, _args: Any) -> None:
        adapters = tuple(getattr(self._network, "peft_config", ()))
        if self._looks_for_added or adapters != self._adapters:
            self._adapters = adapters
            self.take_in()

    def _entering(self, block: _Block) -> Any:
        def enter(_module: nn.Module, _args: Any) -> None:
            self._use(block)
            if torch.is_grad_enabled() and not self._checkpoints:
                self._packing = saved_tensors_hooks(self._pack, self._unpack)
                self._packing.__enter__()

        return enter

    def _left(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        if self._packing is not None:
            packing, self._packing = self._packing, None
            packing.__exit__(None, None, None)

    def _pack(self, tensor: Tensor) -> Tensor | _SavedWeight:
        buffer = self._current
        storage = tensor.untyped_storage().data_ptr()
        if buffer is None or buffer.block is None:
            return tensor
        if storage != buffer.memory.untyped_storage().data_ptr():
            return tensor
        shape, stride = tensor.shape, tensor.stride()
        return _SavedWeight(buffer.block, tensor.dtype, shape, stride, tensor.storage_offset())

    def _unpack(self, saved: Tensor | _SavedWeight) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        memory = self._use(saved.block).memory
        typed = torch.empty(0, dtype=saved.dtype, device=memory.device)
        return typed.set_(memory.untyped_storage(), saved.offset, saved.shape, saved.stride)

    def _use(self, block: _Block) -> _Buffer:
        """Have a block's weights on the device for what is computed from now on."""
        current = self._current
        if current is not None and current.block is block:
            return current
        buffer = next((each for each in self._buffers if each.block is block), None)
        if buffer is None:
            buffer = self._other(current)
            self._fill(buffer, block)
            self.num_waits += 1
        former = None if current is None else current.block
        if self._on_cuda:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(buffer.ready)
            if current is not None:
                current.free = computing.record_event()
        if former is not None:
            former.point_to(former.away)
        block.point_to(self._views[id(block), id(buffer)])
        self._current = buffer
        if former is not None:
            if self._before is not None:
                self._next[id(self._before), id(former)] = block
            self._before = former
            following = self._next.get((id(former), id(block)))
            if following is not None and following is not block:
                other = self._other(buffer)
                if other.block is not following:
                    self._fill(other, following)
        return buffer

    def _other(self, buffer: _Buffer | None) -> _Buffer:
        return next(each for each in self._buffers if each is not buffer)

    def _fill(self, buffer: _Buffer, block: _Block) -> None:
        """Copy a block into a buffer, once what was computed with the one before it is done."""
        self.num_copies += 1
        buffer.block = block
        target = buffer.memory[: block.num_bytes]
        if self._stream is None:
            target.copy_(block.memory)
            return
        with torch.cuda.stream(self._stream):
            if buffer.free is not None:
                self._stream.wait_event(buffer.free)
            target.copy_(block.memory, non_blocking=True)
            buffer.ready = self._stream.record_event()


def offload_of(network: nn.Module) -> BlockOffload | None:
    """Return what moves a network's blocks; None where they stay."""
    return getattr(network, _ATTRIBUTE, None)


def _tensors(module: nn.Module, left_out: Iterable[int] = ()) -> list[Tensor]:
    unwanted = {*left_out}
    found = {id(each): each for each in (*module.parameters(), *module.buffers())}
    return [tensor for key, tensor in found.items() if key not in unwanted]


def _layout(tensors: Iterable[Tensor]) -> tuple[list[int], int]:
    """Return where each tensor begins among the bytes of a block, and how many these are."""
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-_num_bytes(tensor) // _ALIGNMENT) * _ALIGNMENT
    return starts, end


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
