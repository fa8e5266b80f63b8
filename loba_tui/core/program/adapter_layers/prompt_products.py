"""The products A x of all layers that read the prompt's states, as one.

A denoiser hands the same states to each of its cross-attentions: 140 layers of SD-XL's UNet
multiply one small tensor with matrices of a few rows each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class PromptProducts:
    """The products of one forward pass, ready for the layers that read the prompt.

    Which layers these are is seen in the first pass.
    """

    def __init__(self) -> None:
        self._readers: list[Any] = []
        self._states: Tensor | None = None
        self._products: dict[Any, Tensor] = {}

    def begin(
        self,
        states: Tensor,
        factors_of: Callable[[Any], Tensor],
        scaled: Callable[[Tensor], Tensor],
    ) -> None:
        """Multiply the prompt's states (B, T, D) with the factors A (r, D) of all who read them.

        Args:
            factors_of: Returns A of a layer, in the dtype of the states.
            scaled: Returns products times the adapter's strength.
        """
        self._states = states
        if not self._readers:
            return
        factors = [factors_of(reader) for reader in self._readers]
        joined = scaled(nn.functional.linear(states, torch.cat(factors)))
        parts = joined.split([len(factor) for factor in factors], dim=-1)
        self._products = dict(zip(self._readers, parts, strict=True))

    def end(self) -> None:
        """Forget this pass."""
        self._states, self._products = None, {}

    def of(self, reader: Any, x: Tensor) -> Tensor | None:
        """Return A x of a layer, (B, T, r), times its strength; None where it is not ready."""
        if x is not self._states:
            return None
        product = self._products.get(reader)
        if product is None and not self._products:
            self._readers.append(reader)
        return product
