"""Batches whose rows have the bits that they have alone.

A matrix product is cut into blocks by the number of its rows, and the blocks decide in which order
its sums are rounded. So a prompt's embeddings depend on how many others are encoded with it. All
other operators of CLIP's encoders treat each row by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class RowByRow(TorchFunctionMode):
    """Calls linear layers once for each row of a batch, everything else for all rows together.

    Args:
        num_rows: Rows of the batch; what has another number of rows is no batch of it.
    """

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self._num_rows = num_rows

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not functional.linear or args[0].shape[0] != self._num_rows:
            return func(*args, **kwargs)
        inputs, *weights = args
        return torch.cat([func(row[None], *weights, **kwargs) for row in inputs])
