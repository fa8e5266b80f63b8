"""Squares of latent pixels as tokens, in the order that FLUX and its kin have been trained with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

PATCH = 2
"""Latent pixels a side of one token."""


def pack(latents: Tensor) -> Tensor:
    """Turn latents (B, C, H, W) into tokens (B, H/2 · W/2, 4 C), row by row."""
    return pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Turn tokens back into latents (B, C, H, W) of this height and width."""
    grid = tokens.transpose(1, 2).unflatten(2, (height // PATCH, width // PATCH))
    return pixel_shuffle(grid, PATCH)


def grid_positions(height: int, width: int, axes: int, device: torch.device) -> Tensor:
    """Return each image token's position (H/2 · W/2, axes): row and column on axes 1 and 2."""
    rows, columns = height // PATCH, width // PATCH
    positions = torch.zeros((rows, columns, axes), device=device)
    positions[..., 1] = torch.arange(rows, device=device)[:, None]
    positions[..., 2] = torch.arange(columns, device=device)[None]
    return positions.flatten(0, 1)
