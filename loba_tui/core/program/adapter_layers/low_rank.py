"""LoRA's layers of PEFT, computed with few operations and with a strength for each row.

A layer computes W x + m · α/r · B A x. PEFT casts the factors, or the input, in every layer; here
they are cast once a forward pass for all layers, and 1 is not multiplied by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn

from loba_tui.core.program.adapter_layers.multipliers import Multipliers

_PLAIN_FORWARDS = (lora.Linear.forward, lora.Conv2d.forward)


class ScaledLayer:
    """A forward pass for LoRA layers of PEFT, in place of their own; `scale_layer` puts it there.

    Attributes:
        plain: The layer's own class.
        multipliers: Of each adapter, by its name; what no name is given for has strength 1.
        cast_for_grad: Factors in the dtype that the network computes in, by adapter; gradients flow
            through them.
        cast_without_grad: The same for passes without gradients.
    """

    # A class can only be changed for one whose objects have the same fields.
    __slots__ = ()

    plain: type[lora.LoraLayer]
    # Of PEFT's layers.
    base_layer: nn.Module
    disable_adapters: bool
    merged: bool
    active_adapters: list[str]
    lora_A: Mapping[str, Any]
    lora_B: Mapping[str, Any]
    lora_dropout: Mapping[str, nn.Module]
    scaling: Mapping[str, float]

    multipliers: dict[str, list[Multipliers]]
    cast_for_grad: dict[str, tuple[Tensor, Tensor]]
    cast_without_grad: dict[str, tuple[Tensor, Tensor]]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return W x and what each active adapter adds to it, (B, …) in the dtype of W x."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for name in self.active_adapters:
            if name in self.lora_A:
                result = self._with_added(name, x, result)
        return result

    def _with_added(self, name: str, x: Tensor, result: Tensor) -> Tensor:
        multipliers = self.multipliers.get(name, ())
        for each in multipliers:
            if not each.is_on:
                return result
        if multipliers and multipliers[0].is_fast and not multipliers[0].is_compiled:
            return self._added_at_once(name, x, result, multipliers)
        down, up = self.factors(name, x.dtype)
        inner = _applied(self.lora_A[name], down, self.lora_dropout[name](x))
        added = _scaled(_applied(self.lora_B[name], up, inner), multipliers, self.scaling[name])
        # The sum is rounded once where the factors are more precise than the network.
        return (result + added).to(result.dtype)

    def _added_at_once(
        self, name: str, x: Tensor, result: Tensor, multipliers: Sequence[Multipliers]
    ) -> Tensor:
        """Return W x + α/r · B (m · A x): the strengths on the few inner values, B with the sum.

        It has the value of the other order but for the last bits.
        """
        down, up = self.factors(name, x.dtype)
        layer, factor = self.lora_B[name], self.scaling[name]
        inner = None
        if len(multipliers) == 1 and isinstance(self.lora_dropout[name], nn.Identity):
            inner = multipliers[0].prompt_products.of(self, x)
        if inner is None:
            inner = _applied(self.lora_A[name], down, self.lora_dropout[name](x))
            if any(each.rows is not None for each in multipliers):
                inner, factor = _scaled(inner, multipliers, factor), 1.0
        if not isinstance(layer, nn.Linear) or layer.bias is not None or up.dtype != result.dtype:
            inner = inner if factor == 1 else inner * factor
            return (result + _applied(layer, up, inner)).to(result.dtype)
        flat = torch.addmm(result.flatten(0, -2), inner.flatten(0, -2), up.t(), alpha=factor)
        return flat.view(result.shape)

    def factors(self, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return A and B in a dtype."""
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        if down.dtype == dtype:
            return down, up
        kept = self.cast_for_grad if torch.is_grad_enabled() else self.cast_without_grad
        cast = kept.get(name)
        if cast is None or cast[0].dtype != dtype or cast[0].device != down.device:
            return down.to(dtype), up.to(dtype)
        return cast


def _scaled(added: Tensor, multipliers: Sequence[Multipliers], factor: float) -> Tensor:
    """Return what is added times all its strengths, and then times α/r."""
    last = len(multipliers) - 1
    for number, each in enumerate(multipliers):
        added = each.times(added, factor if number == last else 1.0)
    return added if multipliers or factor == 1 else added * factor


def _applied(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """Return what a factor's layer does, with its weight in the dtype of x."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, weight, bias)
    applied: Tensor = layer._conv_forward(x, weight, bias)
    return applied


def is_plain(layer: nn.Module, adapter_name: str) -> bool:
    """Say whether a layer's adapter is a LoRA that `ScaledLayer` computes."""
    return (
        isinstance(layer, lora.LoraLayer)
        and (isinstance(layer, ScaledLayer) or type(layer).forward in _PLAIN_FORWARDS)
        and adapter_name not in layer.lora_variant
        and not layer.merged
    )


def scale_layer(layer: lora.LoraLayer, name: str, multipliers: Multipliers) -> Callable[[], None]:
    """Have a layer compute as `ScaledLayer` does, with these multipliers; return what undoes it."""
    if not isinstance(layer, ScaledLayer):
        layer.__class__ = _scaled_class(type(layer))  # type: ignore[arg-type]
        layer.multipliers, layer.cast_for_grad, layer.cast_without_grad = {}, {}, {}
    layer.multipliers.setdefault(name, []).append(multipliers)

    def undo() -> None:
        layer.multipliers[name].remove(multipliers)
        if not any(layer.multipliers.values()):
            layer.__class__ = layer.plain
            del layer.multipliers, layer.cast_for_grad, layer.cast_without_grad

    return undo


@cache
def _scaled_class(plain: type[Any]) -> type[Any]:
    own = {"plain": plain, "forward": ScaledLayer.forward}
    return type(f"Scaled{plain.__name__}", (plain, ScaledLayer), own)


def cast_together(layers: Sequence[lora.LoraLayer], name: str, dtype: torch.dtype) -> None:
    """Cast the factors of all layers with three operations, for the forward pass that follows.

    With gradients enabled they flow through the cast, so that it is made anew for each pass.
    """
    weights = [part[name].weight for layer in layers for part in (layer.lora_A, layer.lora_B)]
    flat = torch.cat([weight.reshape(-1) for weight in weights]).to(dtype)
    parts = flat.split([weight.numel() for weight in weights])
    cast = [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
    for layer, down, up in zip(layers, cast[::2], cast[1::2], strict=True):
        kept = layer.cast_for_grad if torch.is_grad_enabled() else layer.cast_without_grad
        kept[name] = (down, up)


def forget_cast(layers: Sequence[lora.LoraLayer], name: str) -> None:
    """Drop cast factors that no gradients flow through; the weights may change before the next."""
    if name in layers[0].cast_without_grad:
        for layer in layers:
            del layer.cast_without_grad[name]
