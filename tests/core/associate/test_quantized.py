"""Linear layers with packed weights: their product, gradient and bytes, and what is packed."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from torch.nn import functional

from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.associate.model_shapes import bytes_of, open_shapes, parameters_of
from loba_tui.core.associate.quantized import (
    Parts,
    Quantization,
    QuantizedLinear,
    ScaledRows,
    quantize,
    quantize_shapes,
)
from loba_tui.core.errors import LobaError, NumericsError, RecipeError, ResourceError

CPU = torch.device("cpu")
MODEL = "builtin:shapes-xl"


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round().to(torch.int8), scale


INT8 = ScaledRows(torch.int8, rounded)


def layer(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(24, 40).requires_grad_(False)


def packed(made: nn.Linear) -> QuantizedLinear:
    return QuantizedLinear(made, INT8, INT8.pack(made.weight))


def block() -> nn.ModuleDict:
    torch.manual_seed(0)
    made = BasicTransformerBlock(24, 2, 12, cross_attention_dim=40).requires_grad_(False)
    return nn.ModuleDict({"block": made, "head": nn.Linear(24, 24)})


def test_product_and_gradient_are_those_of_the_unpacked_weight() -> None:
    subject = packed(layer())
    x = torch.randn(3, 5, 24, requires_grad=True)
    upstream = torch.randn(3, 5, 40)
    mine = subject(x)
    theirs = functional.linear(x, subject.weight, subject.bias)
    assert torch.equal(mine, theirs)
    gradients = [torch.autograd.grad(y, x, upstream, retain_graph=True)[0] for y in (mine, theirs)]
    torch.testing.assert_close(*gradients)


def test_the_packed_weight_alone_is_held_for_the_backward_pass() -> None:
    saved: list[Tensor] = []
    subject = packed(layer())
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        subject(torch.randn(3, 24, requires_grad=True))
    assert [t.data_ptr() for t in saved] == [t.data_ptr() for t in subject.parts.values()]


def test_autocast_decides_the_dtype_of_a_product() -> None:
    x = torch.randn(3, 24, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = packed(layer())(x)
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_a_cast_of_the_model_leaves_packed_numbers_as_they_are() -> None:
    subject = packed(layer())
    before = {name: part.clone() for name, part in subject.parts.items()}
    nn.ModuleDict({"inner": subject}).to(torch.float16)
    assert subject.bias.dtype == torch.float16
    for name, part in subject.parts.items():
        assert part.dtype == before[name].dtype
        assert torch.equal(part, before[name])
    assert subject.to("meta").parts["numbers"].is_meta


def test_layers_of_transformer_blocks_are_packed_and_no_others() -> None:
    network = block()
    made = quantize(network, INT8, CPU, name="int8")
    kinds = {
        name: type(part) for name, part in network.named_modules() if isinstance(part, nn.Linear)
    }
    assert kinds.pop("head") is nn.Linear
    assert set(kinds.values()) == {QuantizedLinear}
    assert made.num_layers == len(kinds) == 10
    assert 0.001 < made.error < 0.02
    weights = [part.weight for part in network["block"].modules() if isinstance(part, nn.Linear)]
    assert made.float_bytes == 4 * sum(weight.numel() for weight in weights)
    assert made.packed_bytes == sum(weight.numel() + 4 * len(weight) for weight in weights)


class Wrong:
    """A quantizer that breaks one part of its contract."""

    def __init__(self, what: str) -> None:
        self._what = what

    def pack(self, weight: Tensor) -> Parts:
        if self._what == "missing":
            raise ImportError("no such kernel")
        return {"half": weight.half()}

    def unpack(self, parts: Parts, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        factor = {"nan": torch.nan, "error": 1.3}.get(self._what, 1.0)
        return parts["half"].to(dtype) * factor

    def parts(self, shape: torch.Size) -> Parts:
        dtype = torch.float32 if self._what == "size" else torch.float16
        return {"half": torch.empty(shape, dtype=dtype, device="meta")}


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("missing", ResourceError, "int9 does not run on cpu: no such kernel"),
        ("nan", NumericsError, "int9 changes the weights of block.attn1.to_q by nan%"),
        ("error", NumericsError, "by 30%; at most 20% can be"),
        ("size", RecipeError, r"pack\(\) makes .*float16.*parts\(\) says .*float32"),
    ],
)
def test_a_quantizer_that_does_not_work_is_told(
    what: str, error: type[LobaError], message: str
) -> None:
    with pytest.raises(error, match=message):
        quantize(block(), Wrong(what), CPU, name="int9")


def test_a_network_without_transformer_blocks_is_refused() -> None:
    with pytest.raises(RecipeError, match="a Sequential has no transformer blocks"):
        quantize(nn.Sequential(layer()), INT8, CPU, name="int8")


def storages(network: nn.Module) -> int:
    """Return what all tensors of a network take, each storage once."""
    found = {}
    for part in network.modules():
        tensors = [value for value in vars(part).values() if isinstance(value, Tensor)]
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False), *tensors):
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def test_planned_bytes_are_those_of_the_tensors() -> None:
    quantization = Quantization("int8", INT8, CPU)
    real = ModelCache("cpu", "float32", on_read=quantization).container(MODEL).denoiser
    shapes = open_shapes(MODEL, None, torch.float32).container.denoiser
    before, num = bytes_of(shapes), parameters_of(shapes)
    quantize_shapes(shapes, INT8)
    made = quantization.weights
    assert made is not None
    assert bytes_of(shapes) == bytes_of(real) == storages(real)
    assert before - bytes_of(shapes) == made.float_bytes - made.packed_bytes
    assert parameters_of(shapes) == parameters_of(real) == num
