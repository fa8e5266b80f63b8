"""Sequence parallelism of UNets: a group of processes shares the tokens of each transformer.

Convolutions, residual blocks and embeddings are computed by every process; attention and
feed-forward layers on its own tokens. Self-attention exchanges tokens for heads (DeepSpeed-Ulysses,
Jacobs et al. 2023, https://arxiv.org/abs/2309.14509), or gathers keys and values where the degree
does not divide the heads: SD-XL has 10 and 20, so that 2, 5 and 10 exchange, and 4 and 8 gather.
Cross-attention needs neither, as every process has the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.engines.sequence_parallel.collectives import (
    Shares,
    enter,
    gather_tokens,
    leave,
    to_heads,
    to_tokens,
)


class SplitUNet:
    """Has a UNet's transformers compute this process's tokens alone, while that is on.

    While it is off the UNet computes whole rows, so that a process may draw by itself. How many
    tokens there are travels with the arguments of a transformer's blocks: gradient checkpointing
    runs a block again when other shapes may have gone through it.

    Attributes:
        loss_factor: What a loss has to be multiplied by, for a mean of gradients over processes.

    Raises:
        RecipeError: The UNet has no transformers, or their attention cannot be shared.
    """

    loss_factor = 1

    def __init__(self, unet: nn.Module, group: Any) -> None:
        self._group = group
        self._is_on = False
        transformers = [each for each in unet.modules() if isinstance(each, Transformer2DModel)]
        if not transformers:
            raise RecipeError(
                f"parallel.ulysses: {type(unet).__name__} has no transformers whose tokens"
                " could be shared",
                "Leave it out.",
            )
        for transformer in transformers:
            self._check(transformer)
        for transformer in transformers:
            self._split(transformer)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Share tokens inside a `with` block, backward pass included."""
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def _check(self, transformer: Transformer2DModel) -> None:
        if not transformer.is_input_continuous:
            raise RecipeError("parallel.ulysses: this UNet's tokens are no pixels", "Leave it out.")
        for each in transformer.modules():
            if isinstance(each, Attention) and not isinstance(each.processor, AttnProcessor2_0):
                raise RecipeError(
                    f"parallel.ulysses cannot share {type(each.processor).__name__} of"
                    " base_model.attention",
                    "Take base_model.attention: auto.",
                )

    def _split(self, transformer: Transformer2DModel) -> None:
        for each in transformer.modules():
            if isinstance(each, Attention):
                each.set_processor(_SharedAttention(each.processor))
        transformer.register_forward_pre_hook(self._tell_blocks, with_kwargs=True)
        # Between the two lie the blocks. Hooks of the first and last block would be called by
        # checkpointing once more, and exchange once more.
        before = transformer._operate_on_continuous_inputs
        after = transformer._get_output_for_continuous_inputs
        transformer._operate_on_continuous_inputs = partial(self._begin, before)
        transformer._get_output_for_continuous_inputs = partial(self._end, after)

    def _shares(self, num_tokens: int) -> Shares | None:
        """Return how tokens are shared; None where it is off, or one process would have none."""
        if not self._is_on or num_tokens < dist.get_world_size(self._group):
            return None
        return Shares.of(num_tokens, self._group)

    def _tell_blocks(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        hidden_states = args[0] if args else kwargs["hidden_states"]
        height, width = hidden_states.shape[-2:]
        shares = self._shares(height * width)
        if shares is None:
            return None
        given = kwargs.get("cross_attention_kwargs") or {}
        return args, {**kwargs, "cross_attention_kwargs": {**given, "shares": shares}}

    def _begin(self, before: Any, hidden_states: Tensor) -> tuple[Tensor, int]:
        height, width = hidden_states.shape[-2:]
        tokens, inner_dim = before(hidden_states)
        shares = self._shares(height * width)
        return tokens if shares is None else enter(tokens, shares), inner_dim

    def _end(self, after: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        shares = self._shares(kwargs["height"] * kwargs["width"])
        if shares is not None:
            hidden_states = leave(hidden_states, shares)
        output: Tensor = after(hidden_states=hidden_states, **kwargs)
        return output


class _SharedAttention:
    """diffusers' attention of a UNet's transformers, for tokens that processes share.

    Args:
        plain: Computes what is not shared; `base_model.attention` may hold it to one kernel.
    """

    def __init__(self, plain: AttnProcessor2_0) -> None:
        self._plain = plain
        self._kernel = getattr(plain, "kernel", None)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        shares: Shares | None = None,
    ) -> Tensor:
        """Return the layer's output (B, s, C) for this process's tokens."""
        if shares is None:
            whole: Tensor = self._plain(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb
            )
            return whole
        context, is_self = encoder_hidden_states, encoder_hidden_states is None
        if context is None:
            context = hidden_states
        elif attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        query = _by_head(attn.to_q(hidden_states), attn, attn.norm_q)
        key = _by_head(attn.to_k(context), attn, attn.norm_k)
        value = _by_head(attn.to_v(context), attn, None)
        # diffusers' mask is a bias (B, 1, S) of all keys, which is the same for all heads.
        mask = None if attention_mask is None else attention_mask.unsqueeze(1)
        with nullcontext() if self._kernel is None else sdpa_kernel(self._kernel):
            if not is_self:
                attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
            else:
                attended = _over_all_tokens(query, key, value, mask, shares)
        attended = attended.transpose(1, 2).flatten(2).to(query.dtype)
        output: Tensor = attn.to_out[1](attn.to_out[0](attended))
        if attn.residual_connection:
            output = output + hidden_states
        return output / attn.rescale_output_factor


def _by_head(x: Tensor, attn: Attention, norm: nn.Module | None) -> Tensor:
    """Return (B, T, H·D) as (B, H, T, D)."""
    x = x.unflatten(2, (attn.heads, -1)).transpose(1, 2)
    return x if norm is None else norm(x)


def _over_all_tokens(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, shares: Shares
) -> Tensor:
    """Return attention (B, H, s, D) of this process's tokens to those of all."""
    if query.shape[1] % shares.degree == 0:
        # Joined, so that one collective moves all three.
        parts = to_heads(torch.cat([query, key, value], dim=-1), shares)
        sizes = [query.shape[-1], key.shape[-1], value.shape[-1]]
        query, key, value = parts.split(sizes, dim=-1)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return to_tokens(attended, shares)
    both = gather_tokens(torch.cat([key, value], dim=-1), shares)
    key, value = both.split([key.shape[-1], value.shape[-1]], dim=-1)
    result: Tensor = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return result
