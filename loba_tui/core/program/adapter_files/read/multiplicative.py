"""Changes that multiply a weight: rotations, factors, and products with the weight itself.

`read.changes` names their papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_files.read.changes import WeightChange, given


@dataclass(frozen=True)
class OutputRotation(WeightChange):
    """OFT and BOFT as LyCORIS and kohya have them: blocks of the outputs are rotated.

    R = (I + Q)(I − Q)⁻¹ of a skew Q, which is shortened to `constraint` where that is above 0.
    BOFT has stages of it, (stages, blocks, size, size), in the order of a butterfly.
    """

    kind: ClassVar[str] = "OFT"
    needs_base: ClassVar[bool] = True
    blocks: Tensor
    alpha: float = 0.0
    rescale: Tensor | None = None

    def check(self, base: Tensor) -> None:
        """Raise `ValueError` where its blocks are not those of the outputs of `base`."""
        num_blocks, size = self.blocks.shape[-3], self.blocks.shape[-1]
        num_outputs = base.shape[0]
        if num_blocks * size != num_outputs:
            raise ValueError(f"it rotates {num_blocks * size} outputs of {num_outputs}")
        last = self.blocks.shape[0] - 1 if self.blocks.ndim == 4 else 0
        if num_outputs % (2**last * size):
            raise ValueError(f"{num_outputs} outputs have no stage {last} of a butterfly")
        if self.rescale is not None and self.rescale.numel() != num_outputs:
            raise ValueError(f"it rescales {self.rescale.numel()} outputs of {num_outputs}")

    def _dense(self, base: Tensor | None) -> Tensor:
        weight = given(base)
        num_outputs, size = weight.shape[0], self.blocks.shape[-1]
        rotations = self._rotations(num_outputs).to(weight.dtype)
        if self.blocks.ndim == 3:
            # LyCORIS multiplies by the transposed block.
            turned = torch.einsum(
                "knm,kn...->km...", rotations, weight.unflatten(0, (-1, size))
            ).flatten(0, 1)
        else:
            turned = self._butterfly(rotations, weight)
        if self.rescale is not None:
            shape = (-1, *[1] * (weight.ndim - 1))
            turned = turned * self.rescale.to(weight.dtype).reshape(shape)
        return turned - weight

    def _rotations(self, num_outputs: int) -> Tensor:
        skew = self.blocks - self.blocks.mT
        limit = self.alpha * num_outputs
        length = skew.norm()
        if limit > 0 and length > limit:
            skew = skew * (limit / length)
        identity = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
        return (identity + skew) @ torch.linalg.inv(identity - skew)

    def _butterfly(self, rotations: Tensor, weight: Tensor) -> Tensor:
        size = self.blocks.shape[-1]
        for stage, blocks in enumerate(rotations):
            reach = 2**stage * (size // 2)
            weight = weight.unflatten(0, (-1, 2, reach)).transpose(1, 2).flatten(0, 2)
            weight = torch.einsum("bij,bj...->bi...", blocks, weight.unflatten(0, (-1, size)))
            weight = weight.flatten(0, 1).unflatten(0, (-1, reach, 2)).transpose(1, 2).flatten(0, 2)
        return weight


@dataclass(frozen=True)
class Factors(WeightChange):
    """IA3: every output, or every input, times 1 + a number."""

    kind: ClassVar[str] = "IA3"
    needs_base: ClassVar[bool] = True
    multipliers: Tensor
    over_inputs: bool

    def check(self, base: Tensor) -> None:
        """Raise `ValueError` where `base` has another number of outputs or inputs."""
        wanted = base.shape[1 if self.over_inputs else 0]
        if self.multipliers.numel() != wanted:
            raise ValueError(f"it has {self.multipliers.numel()} factors for {wanted}")

    def _dense(self, base: Tensor | None) -> Tensor:
        weight = given(base)
        shape = [1] * weight.ndim
        shape[1 if self.over_inputs else 0] = -1
        return weight * self.multipliers.to(weight.dtype).reshape(shape)


@dataclass(frozen=True)
class GeneralLowRank(WeightChange):
    """GLoRA, scale · (W A + B), each of A and B a product of two factors."""

    kind: ClassVar[str] = "GLoRA"
    needs_base: ClassVar[bool] = True
    a1: Tensor
    a2: Tensor
    b1: Tensor
    b2: Tensor
    scale: float

    def _size(self) -> tuple[int, ...]:
        return (self.b1.shape[0], *self.b2.shape[1:])

    def _dense(self, base: Tensor | None) -> Tensor:
        weight = given(base)
        inner = self.a1.flatten(1) @ self.a2.flatten(1)
        through = torch.einsum("oi...,ij->oj...", weight, inner.to(weight.dtype))
        own = (self.b1.flatten(1) @ self.b2.flatten(1)).reshape(weight.shape)
        return (through + own) * self.scale


@dataclass(frozen=True)
class InputRotation(WeightChange):
    """OFT as PEFT has it: blocks of the inputs are rotated, which PEFT's own layers do."""

    kind: ClassVar[str] = "OFT"
    needs_base: ClassVar[bool] = True
    blocks: Tensor

    def _dense(self, base: Tensor | None) -> Tensor:
        raise RecipeError(
            "an OFT of PEFT is applied by PEFT's own layers alone",
            "It can be sampled and measured, and not merged or written in another form.",
        )
