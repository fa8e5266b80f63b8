"""Ring attention on a CPU, for tests.

A ring combines its parts by their log-sum-exp. diffusers takes it from aten's flash attention,
which a CPU has under another name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from diffusers.models import attention_dispatch
from torch import Tensor

from loba_tui.core.program.engines.sequence_parallel import transformer

_aten = torch.ops.aten


@contextmanager
def ring_on_cpu() -> Iterator[None]:
    """Let `parallel.ring` compute on a CPU inside a `with` block."""
    with (
        mock.patch.object(attention_dispatch, "_native_flash_attention_forward_op", _forward),
        mock.patch.object(attention_dispatch, "_native_flash_attention_backward_op", _backward),
        mock.patch.object(transformer, "RING_DEVICES", ("cpu", "cuda")),
    ):
        yield


def _swapped(x: Tensor) -> Tensor:
    """Return (B, S, H, D) as (B, H, S, D), or back."""
    return x.transpose(1, 2).contiguous()


def _forward(
    ctx: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    _save_ctx: bool = True,
    _parallel_config: Any = None,
) -> Any:
    assert attn_mask is None, "flash attention takes no mask"
    assert not enable_gqa
    q, k, v = map(_swapped, (query, key, value))
    out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, dropout_p, is_causal, scale=scale
    )
    out, lse = _swapped(out), _swapped(lse)
    if _save_ctx:
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.is_causal, ctx.scale = is_causal, scale
    return (out, lse) if return_lse else out


def _backward(ctx: Any, grad_out: Tensor, *args: Any, **given: Any) -> tuple[Tensor, ...]:
    names = ("query", "key", "value", "out", "lse")
    saved = dict(zip(names, ctx.saved_tensors, strict=True))
    parts = [saved[name] if given.get(name) is None else given[name] for name in names]
    grads = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        _swapped(grad_out), *map(_swapped, parts), 0.0, ctx.is_causal, scale=ctx.scale
    )
    return tuple(grad.transpose(1, 2) for grad in grads)
