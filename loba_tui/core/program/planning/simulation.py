"""Cost of one call of a network, found by running it on tensors that have shapes only.

`Allocations` sees every operator and keeps the books of an allocator: a storage counts from the
operator that made it until nothing holds it any more. So gradient checkpointing, in-place
operators, temporaries and the order in which backward frees are not modelled but observed. What
it cannot see are workspaces inside a kernel.

Two things differ between the meta device and a real one, and `RealDeviceRules` puts them right:
attention (on meta it would take the math path, whose scores of size T·T the fused kernels never
store), and autocast (which meta tensors do not have; its rules are those of torch's
autocast_mode.h, per device).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

_LOWERED = frozenset(
    {
        functional.linear,
        functional.conv1d,
        functional.conv2d,
        functional.conv3d,
        functional.conv_transpose2d,
        functional.scaled_dot_product_attention,
        torch.matmul,
        torch.bmm,
        torch.baddbmm,
        torch.addmm,
        torch.mm,
        Tensor.matmul,
        Tensor.__matmul__,
        Tensor.bmm,
    }
)
"""Functions that autocast runs in the lower precision, on every device."""

_RAISED = MappingProxyType(
    {
        "cuda": frozenset(
            {
                functional.group_norm,
                functional.layer_norm,
                functional.softmax,
                functional.mse_loss,
                functional.l1_loss,
                functional.cosine_similarity,
                torch.softmax,
                Tensor.softmax,
                torch.exp,
                torch.pow,
                Tensor.pow,
                Tensor.__pow__,
            }
        )
    }
)
"""Functions that autocast runs in float32, by device; the CPU has none that denoisers use."""


@dataclass(frozen=True)
class Cost:
    """Memory and work of one call of a network, beside its weights.

    Attributes:
        kept_bytes: Held for the backward pass once the forward pass is done; 0 without one.
        peak_bytes: Most that is allocated at once, in forward and backward, gradients included.
        flops: Floating-point operations of forward and backward, two a multiply-add.
        operators: Operators of torch that are dispatched for it; on a GPU, about its launches.
        shared_bytes: Those of `kept_bytes` that processes share where they share a row's tokens.
    """

    kept_bytes: int
    peak_bytes: int
    flops: int
    operators: int = 0
    shared_bytes: int = 0


_UNSAFE_VIEW = torch.ops.aten._unsafe_view.default


class Allocations(TorchDispatchMode):
    """Counts live and peak bytes, and floating-point operations, of what runs under it."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self.flops = 0
        self.operators = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._book(tensor.untyped_storage())
        # The second is a view that torch does not call one.
        self.operators += not func.is_view and func is not _UNSAFE_VIEW
        packet = func._overloadpacket
        if packet in (_FUSED, _FUSED_BACKWARD):
            self.flops += _attention_flops(packet, args)
        elif packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=output)
        return output

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Leave out what was there before; call it before entering."""
        for tensor in tensors:
            self._book(tensor.untyped_storage())
        self.live_bytes = self.peak_bytes = 0

    def _book(self, storage: torch.UntypedStorage) -> None:
        # A storage keeps one Python object for as long as it lives, so its id stands for it.
        key, num_bytes = id(storage), storage.nbytes()
        if key in self._known:
            return

        def free(_reference: object) -> None:
            if self._known.pop(key, None) is not None:
                self.live_bytes -= num_bytes

        self._known[key] = weakref.ref(storage, free)
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)


class RealDeviceRules(TorchFunctionMode):
    """Makes meta tensors take the attention path and the autocast of a real device.

    `autocast` is the lower precision, None for none. Attention is fused unless the recipe asks for
    math.
    """

    def __init__(
        self, *, autocast: torch.dtype | None = None, device_type: str = "cpu", fused: bool = True
    ) -> None:
        super().__init__()
        self._autocast = autocast
        self._raised = _RAISED.get(device_type, frozenset())
        self._fused = fused
        self._casts: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._autocast is not None and func in _LOWERED:
            args, kwargs = tree_map(self._lowered, (args, kwargs))
        elif self._autocast is not None and func in self._raised:
            args, kwargs = tree_map(_raised, (args, kwargs))
        if func is functional.scaled_dot_product_attention and self._fused:
            return _fused_attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _lowered(self, value: Any) -> Any:
        if not _is_castable(value) or value.dtype == self._autocast:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(self._autocast)
        # Trained weights are cast once per forward pass and kept, as autocast's own cache does.
        if id(value) not in self._casts:
            self._casts[id(value)] = (value, value.to(self._autocast))
        return self._casts[id(value)][1]

    def checkpoint(self, module: Callable[..., Any], *args: Any) -> Any:
        """Run a part of a network as gradient checkpointing does, recomputed by these rules.

        To be given to diffusers' `enable_gradient_checkpointing`. `backward` is itself a function
        of the mode, inside of which the mode is off: the recomputation has to enter it again.
        """
        return checkpoint(
            module, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), self)
        )

    def forget(self) -> None:
        """Drop the cached casts, as leaving autocast does."""
        self._casts.clear()


def measure(
    forward: Callable[[], Tensor],
    *,
    with_grad: bool,
    rules: RealDeviceRules | None,
    present: Iterable[Tensor] = (),
    shared: Iterable[nn.Module] = (),
) -> Cost:
    """Run a forward pass, and a backward pass if wanted, and return what they cost.

    Args:
        forward: Makes its inputs, calls the network and returns its output.
        rules: For meta tensors; None where the tensors are real.
        present: Tensors that are there already and are not part of the cost.
        shared: Modules whose tokens several processes can share; none is part of another.
    """
    books = Allocations()
    books.ignore(present)
    with books, torch.set_grad_enabled(with_grad):
        with rules or nullcontext(), _kept_in(shared, books) as kept_in:
            output = forward()
        if rules is not None:
            rules.forget()
        if not with_grad:
            return Cost(0, books.peak_bytes, books.flops, books.operators)
        kept = books.live_bytes
        output.float().square().mean().backward()
    return Cost(kept, books.peak_bytes, books.flops, books.operators, sum(kept_in))


@contextmanager
def _kept_in(modules: Iterable[nn.Module], books: Allocations) -> Iterator[list[int]]:
    """Collect the bytes that each call of these modules leaves behind inside a `with` block."""
    found: list[int] = []
    begun: list[int] = []

    def begin(_module: nn.Module, _args: object) -> None:
        begun.append(books.live_bytes)

    def end(_module: nn.Module, _args: object, _output: object) -> None:
        found.append(books.live_bytes - begun.pop())

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(begin).remove)
            stack.callback(module.register_forward_hook(end).remove)
        yield found


def _is_castable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64


def _raised(value: Any) -> Any:
    return value.float() if _is_castable(value) else value


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return attention by an operator that saves query, key, value, output and log-sum-exp."""
    if query.ndim != 4 or enable_gqa:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    output: Tensor = _FUSED(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return output


def _attention_flops(packet: Any, args: Any) -> int:
    """Return 4·B·H·T·S·D for the forward pass; the backward recomputes and has five products."""
    offset = 0 if packet is _FUSED else 1  # backward takes the output's gradient first
    query, key = args[offset], args[offset + 1]
    batch, heads, length, width = query.shape
    product = 2 * batch * heads * length * key.shape[2] * width
    return product * (2 if packet is _FUSED else 5)
