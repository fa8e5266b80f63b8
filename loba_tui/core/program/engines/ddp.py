"""Data parallelism: each process holds the whole model, and gradients are averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from torch import Tensor, nn

from loba_tui.core.associate.model_shapes import parameters_of
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.kernels.exactness import computes_in_one_dtype, lay_out
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.training.optimizer_state import export_state, import_state
from loba_tui.core.recipe.schema import TrainSection


class Ddp:
    """The engine of one process, and of several that each hold all; `Engine` has it in full."""

    forward_needs_all = False

    def __init__(self, accelerator: Accelerator, processes: Processes) -> None:
        self.accelerator = accelerator
        self.processes = processes
        self._student: nn.Module | None = None
        self._optimizer: Any = None

    def prepare(
        self,
        denoiser: nn.Module,
        optimizer: torch.optim.Optimizer,
        scale: AdapterScale | NoScale,
        train: TrainSection,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return denoiser and optimizer as the accelerator has them, as exact as is asked."""
        lay_out(denoiser, scale, train)
        if isinstance(scale, AdapterScale) and computes_in_one_dtype(denoiser, scale):
            # Around a model that is bfloat16 already it would cast the adapter in every layer
            # anew, and compute norms in float32, which no pipeline does when it draws.
            self.accelerator.autocast_handler = AutocastKwargs(enabled=False)
        self._student = self._prepared_denoiser(denoiser, scale)
        self._optimizer = self.accelerator.prepare(optimizer, device_placement=[False])
        return self._student, self._optimizer

    def _prepared_denoiser(self, denoiser: nn.Module, scale: AdapterScale | NoScale) -> nn.Module:
        """Wrap a denoiser whose gradients are to be shared."""
        if isinstance(scale, NoScale):  # data parallelism refuses to wrap what has no gradients
            return denoiser
        prepared: nn.Module = self.accelerator.prepare(denoiser, device_placement=[False])
        return prepared

    def _in_precision(self, denoiser: nn.Module) -> nn.Module:
        """Wrap a denoiser in the precision that is asked for, and not in data parallelism."""
        prepared: nn.Module = self.accelerator.prepare_model(
            denoiser, device_placement=False, evaluation_mode=True
        )
        return prepared

    def num_parameters(self, denoiser: nn.Module) -> int:
        """Return the number of all elements."""
        return parameters_of(denoiser)

    def num_held(self, denoiser: nn.Module) -> int:
        """Return the number of all elements."""
        return parameters_of(denoiser)

    def accumulate(self) -> AbstractContextManager[None]:
        """Hold a micro-step; gradients are shared in the last one of a step."""
        return self.accelerator.accumulate(self._student)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-step's loss."""
        self.accelerator.backward(loss)

    def finish_gradients(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        outside: Iterable[nn.Parameter],
        max_norm: float,
    ) -> Tensor:
        """Share what the wrapped denoiser has not shared, and cut all gradients."""
        parameters = list(parameters)
        self.share_gradients(parameters, outside=outside)
        norm = self.accelerator.clip_grad_norm_(parameters, max_norm)
        assert norm is not None, "only a device of its own has no norm"
        return norm

    def share_gradients(
        self, parameters: Iterable[nn.Parameter], *, outside: Iterable[nn.Parameter]
    ) -> None:
        """Average the gradients of text encoders, which are called inside of pipelines."""
        for parameter in outside if self.processes.num > 1 else ():
            # None where no row of this process has a prompt.
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.accelerator.reduce(own, reduction="mean")

    def step(self) -> bool:
        """Step the optimizer and forget the gradients."""
        self._optimizer.step()
        self._optimizer.zero_grad()
        return not self.accelerator.optimizer_step_was_skipped

    def export_optimizer(
        self, names: Mapping[Tensor, str]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the optimizer's state, which every process has."""
        return export_state(self._optimizer, names)

    def import_optimizer(
        self, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
    ) -> None:
        """Take back what `export_optimizer` returned."""
        self._optimizer.state.clear()
        import_state(self._optimizer, names, tensors, plain)

    def led(self) -> AbstractContextManager[bool]:
        """Let the first process compute; no other is needed for that."""
        return nullcontext(self.processes.is_first)
