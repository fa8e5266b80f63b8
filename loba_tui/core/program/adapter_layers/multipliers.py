"""Multipliers of one adapter, row by row of a batch, as hundreds of layers read them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from loba_tui.core.associate.device_copies import sent
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
        self.is_compiled = False
        """Whether layers are compiled: for one form of strengths, (B,) of every pass."""
        self._of_pass: Tensor | None = None
        self._of_tokens: Tensor | None = None

    @property
    def rows(self) -> Tensor | None:
        """The strengths (B,) in float32, or one for all rows; None is 1 for all."""
        return self._rows

    def set(self, rows: Tensor | float | None) -> None:
        """Use strengths (B,), or one for all rows; None is 1 for all."""
        if rows is not None:
            given = torch.as_tensor(rows, dtype=torch.float32).detach().reshape(-1)
            # Only what is on the host can be looked at without waiting for the accelerator.
            looks = not self.is_compiled and given.device.type == "cpu"
            rows = None if looks and bool((given == 1).all()) else given
        self._rows = rows
        self._ready = {}

    def prepare(self, num_rows: int, device: torch.device) -> None:
        """Have the strengths of a forward pass ready for layers that are compiled."""
        if not self.is_compiled:
            return
        rows = torch.ones(1) if self._rows is None else self._rows
        rows = sent(rows, device).repeat(num_rows // rows.numel())
        tokens = joined_tokens(self._network)
        self._of_pass, self._of_tokens = rows, None
        if tokens is not None:
            counts = sent(torch.tensor(tokens), device)
            self._of_tokens = rows.repeat_interleave(counts, output_size=sum(tokens))

    def times(self, added: Tensor, factor: float = 1.0) -> Tensor:
        """Return what an adapter adds, (B, …), times its strength and then times `factor`.

        The bits are those of one product after the other: they are only made one where the second
        is exact.
        """
        if self.is_compiled:
            own = (
                self._of_tokens
                if added.ndim == 2 and self._of_tokens is not None
                else self._of_pass
            )
            assert own is not None, "a forward pass of the whole network prepares them"
            rows = own.view(-1, *[1] * (added.ndim - 1))
            return added * (rows * factor).to(added.dtype)
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
            rows = sent(rows, added.device, added.dtype) * factor
            if tokens is not None:
                rows = rows.repeat(len(tokens) // rows.numel())
                counts = sent(torch.tensor(tokens), rows.device)
                rows = rows.repeat_interleave(counts, output_size=sum(tokens))
            elif rows.numel() > 1:
                # Classifier-free guidance stacks the batch: two halves, each of all rows.
                rows = rows.repeat(len(added) // rows.numel())
            ready = self._ready[key] = rows.view(-1, *[1] * (added.ndim - 1))
        return ready


def _is_power_of_two(factor: float) -> bool:
    return abs(math.frexp(factor)[0]) == 0.5
