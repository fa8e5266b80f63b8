"""Protocol of what trains a denoiser on one process or on several.

A run's trainer, its build and its pictures ask the engine wherever several processes differ from
one. The adapter's parameters are whole, plain and equal on every process under each engine, so
that checkpoints, averages, norms and strengths need not know which engine it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.processes import Processes
from loba_tui.core.recipe.schema import TrainSection


class Engine(Protocol):
    """Moves gradients and weights between the processes of a run.

    Attributes:
        accelerator: Device, precision and loss scaler.
        processes: All of them, and the view of those that draw rows of their own.
        forward_needs_all: Whether a forward of the denoiser is the work of several processes, so
            that each of them has to make it at the same time.
    """

    accelerator: Accelerator
    processes: Processes
    forward_needs_all: bool

    def prepare(
        self,
        denoiser: nn.Module,
        optimizer: torch.optim.Optimizer,
        scale: AdapterScale | NoScale,
        train: TrainSection,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return the denoiser that gradients flow through, and the optimizer, as they are used.

        Called once, after the adapter is attached. The denoiser itself goes on being the one that
        draws and validates.

        Raises:
            RecipeError: The denoiser cannot be trained by this engine.
        """

    def num_parameters(self, denoiser: nn.Module) -> int:
        """Return how many elements a prepared denoiser's weights have on all processes together.

        One that several processes hold counts once.
        """

    def num_held(self, denoiser: nn.Module) -> int:
        """Return how many elements of a prepared denoiser's weights lie on this process."""

    def accumulate(self) -> AbstractContextManager[None]:
        """Hold a micro-step of `train.gradient_accumulation`; gradients are shared in the last."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-step's loss, the mean over this process's rows."""

    def share_gradients(
        self, parameters: Iterable[nn.Parameter], *, outside: Iterable[nn.Parameter]
    ) -> None:
        """Make gradients the mean over all processes, as far as backward passes have not.

        Args:
            parameters: All that is trained.
            outside: Those of them that are not the prepared denoiser's: of text encoders.
        """

    def finish_gradients(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        outside: Iterable[nn.Parameter],
        max_norm: float,
    ) -> Tensor:
        """Share gradients as `share_gradients` does, and cut them to a norm.

        Args:
            parameters: All that is trained.
            outside: As in `share_gradients`.
            max_norm: Infinity cuts nothing.

        Returns:
            The norm before it was cut, the same on every process.
        """

    def step(self) -> bool:
        """Step the optimizer and forget the gradients; say whether no loss scaler left it out."""

    def export_optimizer(
        self, names: Mapping[Tensor, str]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the optimizer's whole state as `optimizer_state.export_state` does.

        Every process calls it; it may gather.
        """

    def import_optimizer(
        self, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
    ) -> None:
        """Take back what `export_optimizer` returned; every process calls it."""

    def led(self) -> AbstractContextManager[bool]:
        """Let the first process compute alone inside a `with` block, and say whether it is this.

        The others make each forward of the denoiser with it where that needs all, and otherwise
        go on at once. They are released when the first process leaves its block, by an error too.

            with engine.led() as leads:
                if leads:
                    draw()
        """
