"""The two networks of `builtin:shapes-z` as its training calls them: fewer tokens, no lists."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ZImageTransformer2DModel
from torch import Tensor, nn
from transformers import Qwen3Model

from loba_tui.models import shapes_world as world
from loba_tui.models.shapes_xl_parts import LATENT_SIZE
from loba_tui.models.shapes_z_parts import MAX_TOKENS, WIDTH


class Denoiser(nn.Module):
    """Both networks that are trained, computing what the pipeline does of them, but faster.

    For the images of the world alone. An image has 16 tokens and 16 of padding, which are alike in
    every layer: they start alike and have one place. One stands for all of them, with log(16)
    added to its attention logits. The last layer is computed for the image's tokens alone, and the
    text encoder's last layer not at all. The result is that of the class's own forward to 1e-5.
    """

    def __init__(self, transformer: ZImageTransformer2DModel, text: Qwen3Model) -> None:
        super().__init__()
        self.transformer = transformer
        self.text = text
        self.shape_head = nn.Linear(WIDTH, len(world.SHAPES))
        side = LATENT_SIZE // 2
        self._num_tokens = side * side
        num_padding = -self._num_tokens % MAX_TOKENS
        # (text place, row, column): captions from 1 on, images behind them, padding at 0.
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        behind = torch.full_like(rows, MAX_TOKENS + 1)
        image = torch.stack([behind, rows, columns], dim=-1).flatten(0, 1)
        image = torch.cat([image, torch.zeros_like(image[:1])])
        words = F.pad(torch.arange(1, MAX_TOKENS + 1)[:, None], (0, 2))
        turns = transformer.rope_embedder(torch.cat([image, words]))
        self._turns = (turns.real.clone()[:, None], turns.imag.clone()[:, None])
        bias = torch.zeros(len(turns))
        bias[self._num_tokens] = math.log(num_padding)
        self._bias = bias.view(1, 1, 1, -1)
        self._places = torch.arange(MAX_TOKENS)[None]

    def forward(
        self, noisy: Tensor, times: Tensor, ids: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return image minus noise (B, 4, 8, 8), and the shape head's logits (B, shapes).

        Args:
            times: (B,), 1 for an image without noise and 0 for noise alone.
            ids: (B, 32) token ids; lengths: (B,) how many of them are the caption's.
        """
        transformer, num_tokens = self.transformer, self._num_tokens
        condition = transformer.t_embedder(times * transformer.t_scale)
        image = transformer.all_x_embedder["2-1"](_patches(noisy))
        padding = transformer.x_pad_token.expand(len(noisy), 1, -1)
        image = torch.cat([image, padding], dim=1)
        num_image = num_tokens + 1
        for layer in transformer.noise_refiner:
            image = self._block(layer, image, slice(num_image), condition)
        told = transformer.cap_embedder(self._read(ids))
        told = torch.where(
            (self._places < lengths[:, None])[..., None], told, transformer.cap_pad_token
        )
        for layer in transformer.context_refiner:
            told = self._block(layer, told, slice(num_image, None), None)
        states = torch.cat([image, told], dim=1)
        *layers, last = transformer.layers
        for layer in layers:
            states = self._block(layer, states, slice(None), condition)
        shapes = self.shape_head(states[:, :num_tokens].mean(1))
        states = self._block(last, states, slice(None), condition, kept=num_tokens)
        final = transformer.all_final_layer["2-1"]
        scale = 1 + final.adaLN_modulation(condition)
        return _image(final.linear(final.norm_final(states) * scale.unsqueeze(1))), shapes

    def _read(self, ids: Tensor) -> Tensor:
        """Return the states before the last layer; padding comes last, so no caption sees it."""
        states = self.text.embed_tokens(ids)
        turns = self.text.rotary_emb(states, self._places)
        for layer in self.text.layers[:-1]:
            states = layer(
                states,
                attention_mask=None,
                position_ids=self._places,
                position_embeddings=turns,
            )
        return states

    def _block(
        self,
        block: Any,
        states: Tensor,
        where: slice,
        condition: Tensor | None,
        *,
        kept: int | None = None,
    ) -> Tensor:
        """Return the states after one block; `kept` computes it for the first of them alone."""
        scales: tuple[Any, Any] = (1.0, 1.0)
        gates: tuple[Any, Any] = (1.0, 1.0)
        if condition is not None:
            told = block.adaLN_modulation(condition).unsqueeze(1).chunk(4, dim=2)
            scales, gates = (1 + told[0], 1 + told[2]), (told[1].tanh(), told[3].tanh())
        read = block.attention_norm1(states) * scales[0]
        attended = self._attend(block.attention, read, where, kept)
        states = states[:, :kept] + gates[0] * block.attention_norm2(attended)
        fed = block.feed_forward
        read = block.ffn_norm1(states) * scales[1]
        return states + gates[1] * block.ffn_norm2(fed.w2(F.silu(fed.w1(read)) * fed.w3(read)))

    def _attend(self, attention: Any, states: Tensor, where: slice, kept: int | None) -> Tensor:
        turns = [each[where] for each in self._turns]
        heads = (attention.heads, -1)
        query = attention.norm_q(attention.to_q(states[:, :kept]).unflatten(-1, heads))
        key = attention.norm_k(attention.to_k(states).unflatten(-1, heads))
        value = attention.to_v(states).unflatten(-1, heads)
        query = _turn(query, *(each[:kept] for each in turns))
        query, key, value = (each.transpose(1, 2) for each in (query, _turn(key, *turns), value))
        bias = self._bias[..., where]
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return attention.to_out[0](found.transpose(1, 2).flatten(2))


def _turn(states: Tensor, real: Tensor, imaginary: Tensor) -> Tensor:
    """Turn pairs of numbers by their place (RoFormer, https://arxiv.org/abs/2104.09864)."""
    first, second = states.unflatten(-1, (-1, 2)).unbind(-1)
    turned = (first * real - second * imaginary, first * imaginary + second * real)
    return torch.stack(turned, dim=-1).flatten(-2)


def _patches(latents: Tensor) -> Tensor:
    """Cut (B, C, H, W) into 2x2 patches, (B, tokens, 4C)."""
    batch, channels, height, width = latents.shape
    cut = latents.view(batch, channels, height // 2, 2, width // 2, 2)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, 4 * channels)


def _image(patches: Tensor) -> Tensor:
    """Join what `_patches` cut, for square images."""
    batch, num, width = patches.shape
    side = math.isqrt(num)
    cut = patches.view(batch, side, side, 2, 2, width // 4).permute(0, 5, 1, 3, 2, 4)
    return cut.reshape(batch, width // 4, 2 * side, 2 * side)
