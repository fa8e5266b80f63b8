"""Data parallelism in which groups of processes share the tokens of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch import distributed as dist

from loba_tui.core.associate.devices import resolve_dtype
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.engines.ddp import Ddp
from loba_tui.core.program.engines.sequence_parallel.transformer import SplitTransformer
from loba_tui.core.program.engines.sequence_parallel.unet import SplitUNet
from loba_tui.core.program.processes import Processes
from loba_tui.core.recipe.schema import Recipe


class _Split(Protocol):
    """A denoiser whose tokens can be shared."""

    loss_factor: int

    def on(self) -> Any:
        """Share tokens inside a `with` block, backward pass included."""


class SequenceParallel(Ddp):
    """The engine of `parallel.ulysses` and `parallel.ring`.

    Tokens are shared while a step computes its loss and gradients. Everything else, such as
    pictures and proofs, is computed whole by the process that is asked for it: no other is needed.
    Each process has all weights, and the mean of gradients goes over all processes.
    """

    def __init__(self, accelerator: Accelerator, processes: Processes, recipe: Recipe) -> None:
        super().__init__(accelerator, processes)
        self._recipe = recipe
        self._split: _Split | None = None

    def _prepared_denoiser(self, denoiser: nn.Module, scale: AdapterScale | NoScale) -> nn.Module:
        self._split = self._split_of(denoiser)
        return super()._prepared_denoiser(denoiser, scale)

    def _split_of(self, denoiser: nn.Module) -> _Split:
        parallel, device = self._recipe.parallel, self.accelerator.device
        # A group that waits for a lost process fails when all others do.
        group, _ = dist.new_subgroups(
            parallel.sequence_size, timeout=timedelta(seconds=parallel.timeout)
        )
        if isinstance(denoiser, UNet2DConditionModel):
            if parallel.ring > 1:
                raise RecipeError(
                    "parallel.ring is for transformers, and this model's denoiser is a UNet",
                    f"Take parallel.ulysses: {parallel.sequence_size}.",
                )
            return SplitUNet(denoiser, group)
        return SplitTransformer(
            denoiser,
            group,
            ulysses=parallel.ulysses,
            ring=parallel.ring,
            device=device,
            dtype=resolve_dtype(self._recipe.base_model.dtype, device),
        )

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Hold a micro-step, whose tokens are shared; gradients are in the last one of a step."""
        assert self._split is not None, "the denoiser is prepared before it is trained"
        with super().accumulate(), self._split.on():
            yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-step's loss, so that their mean over all is right."""
        assert self._split is not None, "the denoiser is prepared before it is trained"
        super().backward(loss * self._split.loss_factor)
