"""Multipliers of one adapter, row by row of a batch, as hundreds of layers read them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from loba_tui.core.associate.joined_tokens import joined_tokens
from loba_tui.core.program.adapter_layers.prompt_products import PromptProducts


class Multipliers:
    """The strength of one adapter in all its layers, and whether it is on at all.

    Every layer holds this one object, so that switching it costs the same for 3 layers as for 700.
    What a layer multiplies by is made ready once for all layers of the same shape.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._rows: Tensor | None = None
        self._ready: dict[tuple[object, ...], Tensor] = {}
        self.is_on = True
        self.is_fast = False
        """Whether sums may be made in another order, which has other last bits."""
        self.prompt_products = PromptProducts()
        self.skips_ones = True
        """Whether a strength of 1 is left out; compiled layers are compiled for one form alone."""

    @property
    def rows(self) -> Tensor | None:
        """The strengths (B,) in float32, or one for all rows; None is 1 for all."""
        return self._rows

    def set(self, rows: Tensor | float | None) -> None:
        """Use strengths (B,), or one for all rows; None is 1 for all."""
        if rows is not None:
            given = torch.as_tensor(rows, dtype=torch.float32).detach().reshape(-1)
            # Only what is on the host can be looked at without waiting for the accelerator.
            looks = self.skips_ones and given.device.type == "cpu"
            rows = None if looks and bool((given == 1).all()) else given
        self._rows = rows
        self._ready = {}

    def times(self, added: Tensor, factor: float = 1.0) -> Tensor:
        """Return what an adapter adds, (B, …), times its strength and then times `factor`.

        The bits are those of one product after the other: they are only made one where the second
        is exact.
        """
        if self._rows is None:
            return added if factor == 1 else added * factor
        if _is_power_of_two(factor):
            return added * self.expanded(added, factor)
        return added * self.expanded(added) * factor

    def expanded(self, added: Tensor, factor: float = 1.0) -> Tensor:
        """Return the strengths times `factor`, in dtype, device and dimensions of `added`."""
        rows = self._rows
        assert rows is not None, "a strength of 1 is not multiplied by"
        tokens = None
        if rows.numel() > 1 and added.ndim == 2:
            tokens = joined_tokens(self._network)
            if tokens is not None and sum(tokens) != len(added):
                tokens = None
        key = (len(added), added.ndim, added.dtype, added.device, tokens, factor)
        ready = self._ready.get(key)
        if ready is None:
            rows = rows.to(added.device, added.dtype, non_blocking=True) * factor
            if tokens is not None:
                rows = rows.repeat(len(tokens) // rows.numel())
                rows = rows.repeat_interleave(torch.tensor(tokens, device=rows.device))
            elif rows.numel() > 1:
                # Classifier-free guidance stacks the batch: two halves, each of all rows.
                rows = rows.repeat(len(added) // rows.numel())
            ready = self._ready[key] = rows.view(-1, *[1] * (added.ndim - 1))
        return ready


def _is_power_of_two(factor: float) -> bool:
    return abs(math.frexp(factor)[0]) == 0.5
