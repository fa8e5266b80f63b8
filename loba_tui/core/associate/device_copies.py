"""Copies from the host to an accelerator that the host does not wait for.

A plain copy of a tensor, or an index that is a list, stops the host until the accelerator has done
all that it was given before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor on a device, without waiting where that is safe.

    MPS would read the host's memory later, when it may be another tensor's.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Only what cannot be moved by the operating system is copied without waiting.
        tensor = tensor.pin_memory()
    is_safe = tensor.device.type == "cpu" and device.type != "mps"
    return tensor.to(device, dtype, non_blocking=is_safe)


def numbers(values: Sequence[float], like: Tensor) -> Tensor:
    """Return numbers (N,) with device and dtype of `like`."""
    return sent(torch.tensor(values, dtype=like.dtype), like.device)


def rows_of(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Return rows of a tensor (B, …), each as often as it is named."""
    return tensor.index_select(0, sent(torch.tensor(rows, dtype=torch.int64), tensor.device))
