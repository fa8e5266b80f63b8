"""The adapter's strength, row by row of a batch.

PEFT scales an adapter by one number for a whole forward pass, and some kinds not at all. A slider
is trained and sampled at several strengths at once, so what the adapter adds to each layer is
multiplied row by row: W x + m·(W' − W) x. For LoRA that is W x + m · α/r · B A x; the factor α/r
stays PEFT's own. `adapter_layers.kinds` says why it means the same for all kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from peft.tuners.lycoris_utils import LycorisLayer
from peft.tuners.oft.layer import OFTLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.added import AddedLayer
from loba_tui.core.program.adapter_layers.kinds import adapted_layers
from loba_tui.core.program.adapter_layers.low_rank import (
    cast_together,
    forget_cast,
    is_plain,
    scale_layer,
)
from loba_tui.core.program.adapter_layers.multipliers import Multipliers


class RowScale(Protocol):
    """Sets the strength of one adapter, or of several together."""

    def __call__(self, multipliers: Tensor | float) -> AbstractContextManager[None]:
        """Use strengths (B,), or one for all rows, inside a `with` block."""

    def base(self) -> AbstractContextManager[None]:
        """Run the model without any adapter inside a `with` block."""


class NoScale:
    """The strength of an adapter that changes nothing of the denoiser."""

    def set(self, multipliers: Tensor | float) -> None:
        """Change nothing."""

    @contextmanager
    def __call__(self, multipliers: Tensor | float) -> Iterator[None]:
        """Run the model as it is inside a `with` block."""
        yield

    @contextmanager
    def base(self) -> Iterator[None]:
        """Run the model as it is inside a `with` block."""
        yield


class AdapterScale:
    """Set the strength of the adapter that is attached to `denoiser`.

    Args:
        denoiser: A UNet or transformer that carries a PEFT adapter.
        within: Only its layers in this module of the denoiser; empty means all of them.

    Raises:
        RecipeError: If no adapter of that name is attached, of a kind that is known.
    """

    def __init__(
        self, denoiser: nn.Module, adapter_name: str = "default", *, within: str = ""
    ) -> None:
        self._name = adapter_name
        found = [
            layer
            for name, layer in adapted_layers(denoiser, adapter_name)
            if f"{name}.".startswith(f"{within}." if within else "")
        ]
        if not found:
            raise RecipeError(f"no adapter named {adapter_name!r} is attached to the model")
        self._plain = [layer for layer in found if is_plain(layer, adapter_name)]
        self._others = [layer for layer in found if layer not in set(self._plain)]
        self.multipliers = Multipliers(denoiser)
        self._undo: list[Callable[[], None]] = []
        for layer in found:
            self._hook(layer, adapter_name)
        if self._plain:
            self._undo.append(
                denoiser.register_forward_pre_hook(self._prepare, with_kwargs=True).remove
            )
            after = denoiser.register_forward_hook(self._clean_up, always_call=True)
            self._undo.append(after.remove)

    @property
    def casts_itself(self) -> bool:
        """Whether all its layers compute in the dtype of what they are given."""
        return not self._others

    def _hook(self, layer: BaseTunerLayer | AddedLayer, adapter_name: str) -> None:
        """Multiply what the adapter adds to a layer's output, or to its input for OFT."""
        if is_plain(layer, adapter_name):
            self._undo.append(scale_layer(layer, adapter_name, self.multipliers))
            return
        if isinstance(layer, AddedLayer):
            self._undo.append(layer.register_forward_hook(self._scale_rows).remove)
            return
        if isinstance(layer, LycorisLayer):
            self._wrap_delta(layer, adapter_name)
            return
        if isinstance(layer, OFTLayer):
            handle = layer.oft_R[adapter_name].register_forward_hook(self._scale_rotation)
        elif adapter_name in layer.lora_magnitude_vector:
            # It returns (W' − W)x. The up-projection inside is also used to find ‖W + BA‖.
            handle = layer.lora_magnitude_vector[adapter_name].register_forward_hook(
                self._scale_rows
            )
        else:
            handle = layer.lora_B[adapter_name].register_forward_hook(self._scale_rows)
        self._undo.append(handle.remove)

    def _prepare(
        self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Do once what every layer of a forward pass would do for itself."""
        multipliers = self.multipliers
        if not multipliers.is_on:
            return
        weight = self._plain[0].lora_A[self._name].weight
        given = [value for value in (*args, *kwargs.values()) if _is_batch(value)]
        if given:
            multipliers.prepare(len(given[0]), weight.device)
            dtype = (given[0] if isinstance(given[0], Tensor) else given[0][0]).dtype
            if dtype.is_floating_point and dtype != weight.dtype:
                cast_together(self._plain, self._name, dtype)
        if multipliers.is_fast and not multipliers.is_compiled:
            self._multiply_prompt(denoiser, kwargs.get("encoder_hidden_states"))

    def _multiply_prompt(self, denoiser: nn.Module, states: object) -> None:
        """Make the products of all layers that read the prompt, unless they are made again."""
        # Checkpointing runs blocks again in the backward pass, when these products are gone.
        runs_again = torch.is_grad_enabled() and getattr(
            denoiser, "is_gradient_checkpointing", True
        )
        if isinstance(states, Tensor) and not runs_again:
            self.multipliers.prompt_products.begin(
                states,
                lambda layer: layer.factors(self._name, states.dtype)[0],
                self.multipliers.times,
            )

    def _clean_up(self, _module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        self.multipliers.prompt_products.end()
        # Those that gradients flow through stay: checkpointing runs the forward pass again.
        forget_cast(self._plain, self._name)

    def _wrap_delta(self, layer: LycorisLayer, adapter_name: str) -> None:
        """LoHa and LoKr compute their part in a method, where no module could be hooked."""
        delta = layer._get_delta_activations
        is_wrapped = "_get_delta_activations" in vars(layer)

        def scaled(name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            added: Tensor = delta(name, x, *args, **kwargs)
            return self._scaled(added) if name == adapter_name else added

        layer._get_delta_activations = scaled

        def restore() -> None:
            if is_wrapped:
                layer._get_delta_activations = delta
            else:
                del layer._get_delta_activations

        self._undo.append(restore)

    def _scaled(self, output: Tensor) -> Tensor:
        return self.multipliers.times(output)

    def _scale_rows(self, _module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self._scaled(output)

    def _scale_rotation(self, _module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        if self.multipliers.rows is None:
            return output
        return args[0] + self._scaled(output - args[0])

    def set(self, multipliers: Tensor | float) -> None:
        """Use these strengths, (B,) or one for all rows, until they are set anew.

        They must stay until after the backward pass: gradient checkpointing runs the forward again.
        """
        self.multipliers.set(multipliers)

    @contextmanager
    def __call__(self, multipliers: Tensor | float) -> Iterator[None]:
        """Use strengths (B,), or one for all rows, inside a `with` block."""
        before = self.multipliers.rows
        self.set(multipliers)
        try:
            yield
        finally:
            self.multipliers.set(before)

    @contextmanager
    def base(self) -> Iterator[None]:
        """Run the model without the adapter inside a `with` block (bit-equal to the base)."""
        before, self.multipliers.is_on = self.multipliers.is_on, False
        for layer in self._others:
            layer.enable_adapters(enabled=False)
        try:
            yield
        finally:
            self.multipliers.is_on = before
            for layer in self._others:
                layer.enable_adapters(enabled=True)

    def remove(self) -> None:
        """Take the hooks off again."""
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()


def _is_batch(value: Any) -> bool:
    """Say whether a value is a batch: a tensor, or a list with one for each row."""
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return isinstance(value[0] if is_list else value, Tensor)
