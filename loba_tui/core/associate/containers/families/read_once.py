"""Cross-attention that reads a prompt once, not at every step of a sampler.

Keys and values follow from the prompt's states alone, which are the same tensor at every step. What
is kept is what would be computed again, to the bit. On a small model they are a fifth of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_LAYERS = (".attn2.to_k", ".attn2.to_v")
_MOST_BYTES = 256 * 2**20
"""Of all layers together: of a large model it is the memory that is short, and not the time."""


@contextmanager
def prompts_read_once(unet: nn.Module) -> Iterator[None]:
    """Keep a UNet's keys and values of the prompt inside a `with` block, in which no weight moves.

    An adapter's strengths are weights, too.
    """
    budget = _Budget(_MOST_BYTES)
    kept = [
        _ReadOnce(module, budget)
        for name, module in unet.named_modules()
        if name.endswith(_LAYERS) and "forward" not in vars(module)
    ]
    for each in kept:
        each.layer.forward = each
    try:
        yield
    finally:
        for each in kept:
            del each.layer.forward


class _Budget:
    """Bytes that may still be kept."""

    def __init__(self, left: int) -> None:
        self._left = left

    def takes(self, tensor: Tensor) -> bool:
        """Say whether a tensor is within the budget, and count it."""
        size = tensor.numel() * tensor.element_size()
        if size > self._left:
            return False
        self._left -= size
        return True


class _ReadOnce:
    """A layer's `forward` that remembers the first tensor it was given, and what came of it."""

    def __init__(self, layer: nn.Module, budget: _Budget) -> None:
        self.layer = layer
        self._forward = layer.forward
        self._budget = budget
        self._kept: tuple[Tensor, Tensor] | None = None

    def __call__(self, states: Tensor, *arguments: Any, **named: Any) -> Tensor:
        if self._kept is not None and self._kept[0] is states:
            return self._kept[1]
        output: Tensor = self._forward(states, *arguments, **named)
        if self._kept is None and self._budget.takes(output):
            self._kept = (states, output)
        return output
