"""Changes of a weight: every kind that adapter files hold, in one form.

A change says what is added to a weight W at strength 1, W' − W, whatever its own formula is. At a
strength s the weight is W + s·(W' − W), as `adapter_layers.kinds` says. Some kinds know W' only
from W itself: these need the base.

| kind | paper |
|---|---|
| LoRA | https://arxiv.org/abs/2106.09685 |
| LoHa, LoKr | https://arxiv.org/abs/2108.06098, https://arxiv.org/abs/2309.14859 |
| DoRA | https://arxiv.org/abs/2402.09353 |
| OFT, BOFT | https://arxiv.org/abs/2306.07280, https://arxiv.org/abs/2311.06243 |
| IA3 | https://arxiv.org/abs/2205.05638 |
| GLoRA | https://arxiv.org/abs/2306.07967 |
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor


class WeightChange(ABC):
    """The change of one weight; its tensors are float32."""

    kind: ClassVar[str]
    needs_base: ClassVar[bool] = False

    @abstractmethod
    def _dense(self, base: Tensor | None) -> Tensor:
        """Return W' − W in the layout of the file."""

    def _size(self) -> tuple[int, ...] | None:
        return None

    def dense(self) -> Tensor:
        """Return W' − W of a kind that needs no base, in the shape that `size` says."""
        assert not self.needs_base, f"{self.kind} is not known without the base's weight"
        return self._dense(None)

    def delta(self, base: Tensor) -> Tensor:
        """Return W' − W in the shape of the weight `base`, which is float32 or more.

        Raises:
            ValueError: It does not fit that weight.
        """
        self.check(base)
        return self._dense(base).reshape(base.shape)

    def check(self, base: Tensor) -> None:
        """Raise `ValueError` where it does not fit the weight `base`."""
        check_fit(self.size(), base)

    def factors(self) -> tuple[Tensor, Tensor | None, Tensor] | None:
        """Return down, mid and up of a product whose scale is in `up`; None for other kinds."""
        return None

    def size(self) -> tuple[int, ...] | None:
        """Return the shape of the weight that it is for; None where it does not say."""
        return self._size()

    def to(self, target: torch.device | torch.dtype) -> Self:
        """Return the same change on another device or in another dtype."""
        moved = {
            field.name: _moved(getattr(self, field.name), target)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }
        return dataclasses.replace(self, **moved)  # type: ignore[type-var]

    def tensors(self) -> list[Tensor]:
        """Return the tensors that it is made of."""
        found = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, WeightChange):
                found += value.tensors()
        return found


def _moved(value: object, target: torch.device | torch.dtype) -> object:
    return value.to(target) if isinstance(value, Tensor | WeightChange) else value


def check_fit(size: tuple[int, ...] | None, base: Tensor) -> None:
    """Raise `ValueError` where a change of this size is for another weight than `base`.

    A matrix may stand for a convolution, and a 1x1 convolution for a matrix.
    """
    if size is None:
        return
    if size[:1] != tuple(base.shape[:1]) or math.prod(size) != base.numel():
        raise ValueError(f"it changes a weight of {list(size)}, and this is {list(base.shape)}")


@dataclass(frozen=True)
class LowRank(WeightChange):
    """LoRA, (alpha / rank) · up down, with or without the core of a Tucker decomposition."""

    kind: ClassVar[str] = "LoRA"
    down: Tensor
    up: Tensor
    alpha: float
    mid: Tensor | None = None

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """Number that the product of the factors is multiplied by."""
        return self.alpha / self.rank

    def scaled(self, factor: float) -> LowRank:
        """Return it times a number."""
        return dataclasses.replace(self, alpha=self.alpha * factor)

    def factors(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return down, mid and up, the scale in `up`."""
        return self.down, self.mid, self.up * self.scale

    def _size(self) -> tuple[int, ...]:
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return (self.up.shape[0], self.down.shape[1], *kernel)

    def _dense(self, base: Tensor | None) -> Tensor:
        up, down = self.up.flatten(1), self.down.flatten(1)
        if self.mid is None:
            product = up @ down
        else:
            product = torch.einsum("ij...,pi,jr->pr...", self.mid, up, down)
        return (product * self.scale).reshape(self._size())


@dataclass(frozen=True)
class Difference(WeightChange):
    """The difference of two weights itself, of a linear layer, a convolution or a norm."""

    kind: ClassVar[str] = "full difference"
    weight: Tensor

    def _size(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    def _dense(self, base: Tensor | None) -> Tensor:
        return self.weight


@dataclass(frozen=True)
class Hadamard(WeightChange):
    """LoHa, scale · (A₁B₁) ∘ (A₂B₂); each product may have the core of a Tucker decomposition."""

    kind: ClassVar[str] = "LoHa"
    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    scale: float
    t1: Tensor | None = None
    t2: Tensor | None = None

    def scaled(self, factor: float) -> Hadamard:
        """Return it times a number."""
        return dataclasses.replace(self, scale=self.scale * factor)

    def _size(self) -> tuple[int, ...]:
        for core in (self.t1, self.t2):
            if core is not None:
                return (self.w1_a.shape[1], self.w1_b.shape[1], *core.shape[2:])
        return (self.w1_a.shape[0], self.w1_b.shape[1])

    def _dense(self, base: Tensor | None) -> Tensor:
        one = _product(self.w1_a, self.w1_b, self.t1)
        return one * _product(self.w2_a, self.w2_b, self.t2) * self.scale


@dataclass(frozen=True)
class Kronecker(WeightChange):
    """LoKr, scale · W₁ ⊗ W₂, each whole or a product."""

    kind: ClassVar[str] = "LoKr"
    scale: float
    w1: Tensor | None = None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2: Tensor | None = None
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None
    t2: Tensor | None = None

    def scaled(self, factor: float) -> Kronecker:
        """Return it times a number."""
        return dataclasses.replace(self, scale=self.scale * factor)

    def _size(self) -> tuple[int, ...]:
        one, two = _size_of(self.w1, self.w1_a, self.w1_b), _size_of(self.w2, self.w2_a, self.w2_b)
        if self.t2 is not None and self.w2_a is not None:
            two = (self.w2_a.shape[1], two[1], *self.t2.shape[2:])
        return (one[0] * two[0], one[1] * two[1], *two[2:])

    def _dense(self, base: Tensor | None) -> Tensor:
        one = self.w1 if self.w1 is not None else _product(self.w1_a, self.w1_b, None)
        two = self.w2 if self.w2 is not None else _product(self.w2_a, self.w2_b, self.t2)
        return (
            torch.kron(one.reshape(*one.shape, *[1] * (two.ndim - 2)), two.contiguous())
            * self.scale
        )


@dataclass(frozen=True)
class Dora(WeightChange):
    """DoRA: W + Δ with every row, or every column, brought to the length `magnitude`."""

    kind: ClassVar[str] = "DoRA"
    needs_base: ClassVar[bool] = True
    inner: WeightChange
    magnitude: Tensor
    over_inputs: bool = False

    def _size(self) -> tuple[int, ...] | None:
        return self.inner.size()

    def _dense(self, base: Tensor | None) -> Tensor:
        weight = given(base)
        merged = weight + self.inner.delta(weight)
        axis = 1 if self.over_inputs else 0
        others = [each for each in range(weight.ndim) if each != axis]
        lengths = torch.linalg.vector_norm(merged, dim=others, keepdim=True)
        smallest = torch.finfo(merged.dtype).tiny
        wanted = self.magnitude.to(merged.dtype).reshape(lengths.shape)
        return merged * (wanted / lengths.clamp_min(smallest)) - weight


def _product(left: Tensor | None, right: Tensor | None, core: Tensor | None) -> Tensor:
    assert left is not None, "a layer that was read is whole"
    assert right is not None, "a layer that was read is whole"
    if core is None:
        return left @ right
    return torch.einsum("ij...,ip,jr->pr...", core, left, right)


def _size_of(whole: Tensor | None, left: Tensor | None, right: Tensor | None) -> tuple[int, ...]:
    if whole is not None:
        return tuple(whole.shape)
    assert left is not None, "a layer that was read is whole"
    assert right is not None, "a layer that was read is whole"
    return (left.shape[0], right.shape[1])


def given(base: Tensor | None) -> Tensor:
    """Return the base's weight, which this kind of change needs."""
    assert base is not None, "this kind of change needs the base's weight"
    return base
