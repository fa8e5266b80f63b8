"""Linear layers whose frozen weights are held in fewer bits, and the change of a denoiser to them.

An adapter trains in float on top, as in QLoRA (Dettmers et al. 2023,
https://arxiv.org/abs/2305.14314): y = x Ŵᵀ + b and ∂L/∂x = ∂L/∂y Ŵ, where Ŵ is made from the packed
weight for each product and freed after it. The packages that pack have layers of their own; they
are not used, because they differ in what a backward pass holds and in whether inputs are rounded
too. One layer for all of them has one size to plan with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from loba_tui.core.errors import NumericsError, RecipeError, ResourceError

MAX_LAYER_ERROR = 0.2
"""Largest ‖Ŵ − W‖ / ‖W‖ of a layer; 4 bits have .09, so more is a kernel that does not work."""
DENOISERS = frozenset({"unet", "transformer"})
"""Components of pipelines that are trained."""
_HINT = "Choose another quantizer (loba plugins ls quantizers), or leave the key out."
_BLOCK_SUFFIX = "TransformerBlock"
_PREFIX = "packed_"

Parts = Mapping[str, Tensor]
"""The tensors that a packed weight is made of, by name."""


class Quantizer(Protocol):
    """Packs weights into fewer bits: a drop-in of `quantizers/`."""

    def pack(self, weight: Tensor) -> Parts:
        """Return a float32 weight (out, in) packed, on its device."""

    def unpack(self, parts: Parts, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the weight (out, in) that is computed with; of parts on meta, one on meta."""

    def parts(self, shape: torch.Size) -> Parts:
        """Return on the meta device what `pack` makes of a weight of this shape."""


@dataclass(frozen=True)
class ScaledRows:
    """A quantizer of one byte a number and one scale a row: Ŵᵢⱼ = sᵢ qᵢⱼ, computed in float32.

    Attributes:
        dtype: Of q.
        quantized: Returns q (out, in) and s (out, 1) of a float32 weight.
    """

    dtype: torch.dtype
    quantized: Callable[[Tensor], tuple[Tensor, Tensor]]

    def pack(self, weight: Tensor) -> Parts:
        """Return q and s."""
        numbers, scale = self.quantized(weight)
        return {"numbers": numbers, "scale": scale.reshape(-1, 1).to(torch.float32)}

    def unpack(self, parts: Parts, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return sᵢ qᵢⱼ."""
        return (parts["numbers"].to(torch.float32) * parts["scale"]).to(dtype)

    def parts(self, shape: torch.Size) -> Parts:
        """Return q and s on the meta device."""
        return {
            "numbers": torch.empty(shape, dtype=self.dtype, device="meta"),
            "scale": torch.empty((shape[0], 1), dtype=torch.float32, device="meta"),
        }


@dataclass
class Quantization:
    """Packs the denoiser of a pipeline as soon as its weights are read.

    Attributes:
        name: Of the quantizer.
        device: Packs.
        weights: Facts of the packed weights; None until a denoiser was loaded.
    """

    name: str
    quantizer: Quantizer
    device: torch.device
    weights: QuantizedWeights | None = None

    def __call__(self, component: str, network: nn.Module) -> None:
        """Pack a network of a pipeline if it is the denoiser."""
        if component in DENOISERS:
            self.weights = quantize(network, self.quantizer, self.device, name=self.name)

    def facts(self) -> dict[str, Any]:
        """Return what was done, as a plain object."""
        return {"by": self.name, **({} if self.weights is None else asdict(self.weights))}


@dataclass(frozen=True)
class QuantizedWeights:
    """Facts of a denoiser whose weights were packed.

    Attributes:
        num_layers: Layers that were packed.
        float_bytes: What their weights took.
        packed_bytes: What they take.
        error: ‖Ŵ − W‖ / ‖W‖ over all of them.
    """

    num_layers: int
    float_bytes: int
    packed_bytes: int
    error: float


class QuantizedLinear(nn.Linear):
    """A frozen linear layer with a packed weight; `weight` makes the weight anew at each access.

    Args:
        layer: The layer that it stands for; its bias is taken over as it is.
        parts: The packed weight, on the layer's device or on meta.
    """

    def __init__(self, layer: nn.Linear, quantizer: Quantizer, parts: Parts) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_parameter("bias", layer.bias)
        self._shape, self._dtype = layer.weight.shape, layer.weight.dtype
        self._quantizer = quantizer
        self._names = tuple(parts)
        for name, part in parts.items():
            self.register_buffer(_PREFIX + name, part)

    @property
    def parts(self) -> dict[str, Tensor]:
        """The packed weight."""
        return {name: self.get_buffer(_PREFIX + name) for name in self._names}

    @property
    def weight(self) -> Tensor:
        """Ŵ in the dtype of the base model."""
        return self.weight_in(self._dtype)

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """Return Ŵ in a dtype."""
        return self.unpacked(self.parts, dtype)

    def unpacked(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        """Return Ŵ of these parts, wherever they lie, in a dtype."""
        return self._quantizer.unpack(parts, self._shape, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Return x Ŵᵀ + b."""
        output: Tensor = _Product.apply(input, self)
        return output

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        # A cast of the model is not one of what its weights are packed in.
        parts = {_PREFIX + name: part for name, part in self.parts.items()}
        for name in parts:
            del self._buffers[name]
        super()._apply(fn, recurse)
        for name, part in parts.items():
            moved = fn(part)
            is_cast = moved.dtype != part.dtype
            self.register_buffer(name, part.to(moved.device) if is_cast else moved)
        return self


class _Product(torch.autograd.Function):
    """A product with a weight that is not held for the backward pass but made again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        parts = layer.parts
        # Saved, though the layer has them: where blocks are offloaded, they may have moved by then.
        ctx.save_for_backward(*parts.values())
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if _has_autocast(device) else x.dtype
        return functional.linear(x, layer.unpacked(parts, dtype), layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        parts = dict(zip(ctx.layer.parts, ctx.saved_tensors, strict=True))
        return (gradient @ ctx.layer.unpacked(parts, gradient.dtype)).to(ctx.dtype), None


def _has_autocast(device: str) -> bool:
    return device != "meta" and torch.is_autocast_enabled(device)


def quantizable_layers(denoiser: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Return the linear layers of a denoiser's transformer blocks by name.

    They hold most of its weights. What stands before and after the blocks is small, and an error
    there is one of every block.

    Raises:
        RecipeError: There are none.
    """
    modules = dict(denoiser.named_modules())
    blocks = [n for n, module in modules.items() if type(module).__name__.endswith(_BLOCK_SUFFIX)]
    found = [
        (name, layer)
        for block in blocks
        for name, layer in modules[block].named_modules(prefix=block)
        if type(layer) is nn.Linear
    ]
    if not found:
        raise RecipeError(
            f"base_model.quantize: a {type(denoiser).__name__} has no transformer blocks to"
            " quantise",
            "Leave the key out.",
        )
    return found


def quantize(
    denoiser: nn.Module, quantizer: Quantizer, device: torch.device, *, name: str
) -> QuantizedWeights:
    """Pack the weights of a denoiser's blocks in place, one layer after the other.

    Args:
        device: Packs them; they stay where they are.
        name: The quantizer's, for what is said of it.

    Raises:
        RecipeError: The denoiser has no such layers.
        ResourceError: The quantizer does not run on the device.
        NumericsError: A layer's packed weight is far from its weight.
    """
    layers = quantizable_layers(denoiser)
    squares = torch.zeros(2, dtype=torch.float64)
    float_bytes, packed_bytes = 0, 0
    for path, layer in layers:
        weight = layer.weight.detach().to(device, torch.float32)
        parts, unpacked = _packed(weight, quantizer, name)
        lengths = torch.stack([(unpacked - weight).norm(), weight.norm()]).double().cpu()
        if not lengths[0] <= MAX_LAYER_ERROR * lengths[1]:
            raise NumericsError(
                f"base_model.quantize: {name} changes the weights of {path} by"
                f" {float(lengths[0] / lengths[1]):.0%}; at most {MAX_LAYER_ERROR:.0%} can be.",
                _HINT,
            )
        squares += lengths.square()
        parts = {key: part.to(layer.weight.device) for key, part in parts.items()}
        denoiser.set_submodule(path, QuantizedLinear(layer, quantizer, parts))
        float_bytes += layer.weight.numel() * layer.weight.element_size()
        packed_bytes += sum(part.numel() * part.element_size() for part in parts.values())
    error = float((squares[0] / squares[1].clamp(min=torch.finfo(torch.float64).tiny)).sqrt())
    return QuantizedWeights(len(layers), float_bytes, packed_bytes, error)


def _packed(weight: Tensor, quantizer: Quantizer, name: str) -> tuple[Parts, Tensor]:
    """Return a weight packed, and what it is then."""
    try:
        parts = quantizer.pack(weight)
        unpacked = quantizer.unpack(parts, weight.shape, torch.float32)
    except (ImportError, RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ResourceError(
            f"base_model.quantize: {name} does not run on {weight.device}: {error}", _HINT
        ) from error
    made, planned = (
        {key: (tuple(part.shape), part.dtype) for key, part in each.items()}
        for each in (parts, quantizer.parts(weight.shape))
    )
    if made != planned:  # memory is planned by it
        raise RecipeError(
            f"quantizers/{name}: pack() makes {made}, and parts() says {planned}",
            "Mend the drop-in: both have to be the same.",
        )
    return parts, unpacked


def quantize_shapes(denoiser: nn.Module, quantizer: Quantizer) -> None:
    """Do to a denoiser on the meta device what `quantize` does to one with weights.

    Raises:
        RecipeError: The denoiser has no layers to pack.
    """
    for path, layer in quantizable_layers(denoiser):
        parts = quantizer.parts(layer.weight.shape)
        denoiser.set_submodule(path, QuantizedLinear(layer, quantizer, parts))
