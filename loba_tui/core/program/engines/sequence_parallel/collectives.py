"""Collectives that gradients flow through, for tokens that are shared by a group of processes.

What is sent and what is received is contiguous everywhere: a collective fills memory in order, and
one that gets a permuted view returns the right values in the wrong places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class Shares:
    """How the tokens of a row are shared by the processes of a group, one part after another.

    Attributes:
        group: The processes.
        sizes: Tokens of each; they differ by one where the number does not divide.
        rank: Place of this process in the group.
    """

    group: Any
    sizes: tuple[int, ...]
    rank: int

    @classmethod
    def of(cls, num_tokens: int, group: Any) -> Shares:
        """Share so many tokens as evenly as they divide."""
        degree = dist.get_world_size(group)
        least, more = divmod(num_tokens, degree)
        sizes = tuple(least + (rank < more) for rank in range(degree))
        return cls(group, sizes, dist.get_rank(group))

    @property
    def degree(self) -> int:
        """Number of processes."""
        return len(self.sizes)

    @property
    def own(self) -> int:
        """Tokens of this process."""
        return self.sizes[self.rank]


def enter(x: Tensor, shares: Shares) -> Tensor:
    """Return this process's tokens (B, s, C) of all (B, S, C), which every process has.

    From here to `leave` a process has its tokens' part of the gradients, times the degree: the mean
    over all processes is then the gradient of parameters inside and outside alike.
    """
    result: Tensor = _Enter.apply(x, shares)
    return result


def leave(x: Tensor, shares: Shares) -> Tensor:
    """Return all tokens (B, S, C), the same on every process, of each one's (B, s, C)."""
    result: Tensor = _Leave.apply(x, shares)
    return result


def gather_tokens(x: Tensor, shares: Shares) -> Tensor:
    """Return keys or values of all tokens (B, H, S, D) of each process's (B, H, s, D).

    Unlike after `leave`, processes use them for different things: gradients are added up.
    """
    result: Tensor = _GatherTokens.apply(x, shares)
    return result


def to_heads(x: Tensor, shares: Shares) -> Tensor:
    """Exchange all heads of own tokens (B, H, s, D) for own heads of all tokens (B, H/n, S, D)."""
    batch, heads, tokens, width = x.shape
    own_heads = heads // shares.degree
    sent = x.permute(1, 2, 0, 3).reshape(heads * tokens, batch, width)
    received = _exchange(
        sent,
        [own_heads * tokens] * shares.degree,
        [own_heads * size for size in shares.sizes],
        shares,
    )
    parts = received.split([own_heads * size for size in shares.sizes])
    joined = torch.cat([part.unflatten(0, (own_heads, -1)) for part in parts], dim=1)
    return joined.permute(2, 0, 1, 3)


def to_tokens(x: Tensor, shares: Shares) -> Tensor:
    """Undo `to_heads`: (B, H/n, S, D) to (B, H, s, D)."""
    batch, own_heads, _, width = x.shape
    parts = x.permute(1, 2, 0, 3).split(shares.sizes, dim=1)
    received = _exchange(
        torch.cat([part.reshape(-1, batch, width) for part in parts]),
        [own_heads * size for size in shares.sizes],
        [own_heads * shares.own] * shares.degree,
        shares,
    )
    return received.view(-1, shares.own, batch, width).permute(2, 0, 1, 3)


def _exchange(x: Tensor, send: Sequence[int], receive: Sequence[int], shares: Shares) -> Tensor:
    result: Tensor = _Exchange.apply(x, send, receive, shares.group)
    return result


def _exchanged(x: Tensor, send: Sequence[int], receive: Sequence[int], group: Any) -> Tensor:
    """Send rows of x to each process and return the rows that came, in the order of processes."""
    # Not empty_like, which takes over the strides of a view.
    received = torch.empty((sum(receive), *x.shape[1:]), dtype=x.dtype, device=x.device)
    dist.all_to_all_single(received, x.contiguous(), list(receive), list(send), group=group)
    return received


def _gathered(x: Tensor, shares: Shares, dim: int) -> Tensor:
    """Return the parts of all processes, joined; the shorter ones travel padded."""
    longest = max(shares.sizes)
    if missing := longest - x.shape[dim]:
        x = torch.cat([x, x.new_zeros((*x.shape[:dim], missing, *x.shape[dim + 1 :]))], dim)
    x = x.contiguous()
    parts = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in shares.sizes]
    dist.all_gather(parts, x, group=shares.group)
    cut = zip(parts, shares.sizes, strict=True)
    return torch.cat([part.narrow(dim, 0, size) for part, size in cut], dim)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, send: Sequence[int], receive: Sequence[int], group: Any
    ) -> Tensor:
        ctx.sizes, ctx.group = (send, receive), group
        return _exchanged(x, send, receive, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        send, receive = ctx.sizes
        return _exchanged(grad, receive, send, ctx.group), None, None, None


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: Shares) -> Tensor:
        ctx.shares = shares
        # A copy: a view would keep all tokens alive.
        return x.split(shares.sizes, dim=1)[shares.rank].clone(
            memory_format=torch.contiguous_format
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _gathered(grad, ctx.shares, 1) / ctx.shares.degree, None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: Shares) -> Tensor:
        ctx.shares = shares
        return _gathered(x, shares, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        shares = ctx.shares
        return grad.split(shares.sizes, dim=1)[shares.rank] * shares.degree, None


class _GatherTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: Shares) -> Tensor:
        ctx.shares = shares
        return _gathered(x, shares, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # Each process needs the sum of its own tokens alone. An exchange moves as much as a
        # reduce-scatter, which gloo lacks.
        shares = ctx.shares
        sent = grad.movedim(2, 0).contiguous()
        own = [shares.own] * shares.degree
        received = _exchanged(sent, shares.sizes, own, shares.group)
        parts = received.unflatten(0, (shares.degree, shares.own))
        precise = torch.promote_types(grad.dtype, torch.float32)
        return parts.sum(0, dtype=precise).to(grad.dtype).movedim(0, 2), None
