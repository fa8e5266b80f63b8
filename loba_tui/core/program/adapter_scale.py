"""The adapter's strength, row by row of a batch.

PEFT scales an adapter by one number for a whole forward pass. A slider is trained and sampled at
several strengths at once, so a forward hook on each LoRA up-projection multiplies every row by its
own factor: (W x + m · α/r · B A x). The factor α/r stays PEFT's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from loba_tui.core.errors import RecipeError


class AdapterScale:
    """Set the strength of the LoRA adapter that is attached to `denoiser`.

    Args:
        denoiser: A UNet or transformer that carries a PEFT LoRA adapter.
        adapter_name: PEFT's name of the adapter.

    Raises:
        RecipeError: If no LoRA layer of that name is attached.
    """

    def __init__(self, denoiser: nn.Module, adapter_name: str = "default") -> None:
        self._layers = [
            module
            for module in denoiser.modules()
            if isinstance(module, LoraLayer) and adapter_name in module.lora_B
        ]
        if not self._layers:
            raise RecipeError(f"no LoRA layer named {adapter_name!r} is attached to the model")
        self._multipliers: Tensor | None = None
        self._handles = [
            layer.lora_B[adapter_name].register_forward_hook(self._scale_rows)
            for layer in self._layers
        ]

    def _scale_rows(self, _module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self._multipliers is None:
            return output
        rows = self._multipliers
        if rows.device != output.device or rows.dtype != output.dtype:
            # Kept, because hundreds of layers would each copy it to the accelerator again.
            rows = self._multipliers = rows.to(output.device, output.dtype)
        if rows.numel() > 1:
            # Classifier-free guidance stacks the batch: [unconditional rows, conditional rows].
            rows = rows.repeat(output.shape[0] // rows.numel())
        return output * rows.view(-1, *[1] * (output.ndim - 1))

    def set(self, multipliers: Tensor | float) -> None:
        """Use these strengths, (B,) or one for all rows, until they are set anew.

        They must stay until after the backward pass: gradient checkpointing runs the forward again.
        """
        self._multipliers = torch.as_tensor(multipliers, dtype=torch.float32).reshape(-1)

    @contextmanager
    def __call__(self, multipliers: Tensor | float) -> Iterator[None]:
        """Use strengths (B,), or one for all rows, inside a `with` block."""
        before = self._multipliers
        self.set(multipliers)
        try:
            yield
        finally:
            self._multipliers = before

    @contextmanager
    def base(self) -> Iterator[None]:
        """Run the model without the adapter inside a `with` block (bit-equal to the base)."""
        for layer in self._layers:
            layer.enable_adapters(enabled=False)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.enable_adapters(enabled=True)

    def remove(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
