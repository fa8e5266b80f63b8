"""ZeRO-1 and ZeRO-2: each process keeps the optimizer's states of a share of the adapter.

Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054, by DeepSpeed. Its optimizer makes one
flat tensor of a group's weights, each process steps its part of it, and the parts are gathered.
ZeRO-2 keeps a part of the gradients too. The base model stays whole on every process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.engines.ddp import Ddp
from loba_tui.core.program.engines.zero.library import configuration, load_deepspeed
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.training.optimizer_state import export_state, import_state
from loba_tui.core.recipe.schema import TrainSection


class SharedStates(Ddp):
    """The engine that shares out optimizer states among processes by DeepSpeed.

    Args:
        stage: 1, or 2 to share out gradients too.
        offload: Whether states wait, and are stepped, in main memory.
    """

    def __init__(
        self, accelerator: Accelerator, processes: Processes, *, stage: int, offload: bool
    ) -> None:
        super().__init__(accelerator, processes)
        self._deepspeed = load_deepspeed(accelerator.device.type)
        self._stage, self._offload = stage, offload

    def prepare(
        self,
        denoiser: nn.Module,
        optimizer: torch.optim.Optimizer,
        scale: AdapterScale | NoScale,
        train: TrainSection,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Hand the optimizer to DeepSpeed; the denoiser stays as it is.

        Raises:
            RecipeError: The run has a loss scaler.
        """
        if self.accelerator.scaler is not None:
            raise RecipeError(
                f"parallel.zero_stage: {self._stage} trains without a loss scaler",
                "Take base_model.dtype: bfloat16 or float32, or zero_stage: 3.",
            )
        student, _ = super().prepare(denoiser, optimizer, scale, train)
        trained = [each for group in optimizer.param_groups for each in group["params"]]
        num_parts = self.accelerator.gradient_accumulation_steps
        self._engine, *_ = self._deepspeed.initialize(
            # DeepSpeed is shown what it has work with, and nothing of the frozen model.
            model=nn.ParameterList(trained),
            optimizer=optimizer,
            config={
                **configuration(self._stage, offload=self._offload),
                "gradient_accumulation_steps": num_parts,
            },
        )
        self._zero = self._engine.optimizer
        return student, cast(torch.optim.Optimizer, _SharedOptimizer(self._zero))

    def _prepared_denoiser(self, denoiser: nn.Module, scale: AdapterScale | NoScale) -> nn.Module:
        return self._in_precision(denoiser)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-step's loss, each to the process that steps it."""
        self._zero.clear_backward_seen_flag()
        self._engine.set_gradient_accumulation_boundary(self.accelerator.sync_gradients)
        self._engine.backward(loss)

    def share_gradients(
        self, parameters: Iterable[nn.Parameter], *, outside: Iterable[nn.Parameter]
    ) -> None:
        """Refuse to show gradients that no process has all of.

        Raises:
            RecipeError: Always.
        """
        raise RecipeError(
            f"parallel.zero_stage: {self._stage} cannot begin an adapter along its gradient",
            "Take zero_stage: 3, or another adapter.init.",
        )

    def finish_gradients(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        outside: Iterable[nn.Parameter],
        max_norm: float,
    ) -> Tensor:
        """Return the norm of all gradients; they are cut to `max_norm` in the step."""
        self._zero.clip_grad = max_norm if math.isfinite(max_norm) else 0.0
        norm = torch.as_tensor(self._zero.scaled_global_norm()).float()
        # DeepSpeed says −1 of a norm that is not finite.
        return torch.where(norm < 0, torch.full_like(norm, math.nan), norm)

    def step(self) -> bool:
        """Step this process's share, and gather all."""
        # The weights may have been loaded since; DeepSpeed steps a copy of them.
        self._zero.refresh_fp32_params()
        self._zero.step()
        return not self._zero.overflow

    def export_optimizer(
        self, names: Mapping[Tensor, str]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the states of all processes, each under the process that keeps it."""
        own = export_state(self._zero.optimizer, self._names_of_shares())
        boxes: list[Any] = [None] * self.processes.num
        torch.distributed.all_gather_object(boxes, own)
        tensors = {name: tensor for kept, _ in boxes for name, tensor in kept.items()}
        return tensors, {"shares": [plain for _, plain in boxes]}

    def import_optimizer(
        self, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
    ) -> None:
        """Take back this process's share.

        Raises:
            CorruptError: It was shared out among another number of processes.
        """
        shares = plain["shares"]
        if len(shares) != self.processes.num:
            raise CorruptError(f"its optimizer's states are those of {len(shares)} processes")
        self._zero.optimizer.state.clear()
        own = shares[self.processes.rank]
        import_state(self._zero.optimizer, self._names_of_shares(), tensors, own)

    def _names_of_shares(self) -> dict[Tensor, str]:
        return {
            share: f"process {self.processes.rank}, group {number}"
            for number, share in enumerate(self._zero.single_partition_of_fp32_groups)
        }


class _SharedOptimizer:
    """The part of an optimizer that a trainer uses, where the gradients are DeepSpeed's."""

    def __init__(self, zero: Any) -> None:
        self._zero = zero

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups, whose learning rates are set; their parameters are shares."""
        groups: list[dict[str, Any]] = self._zero.optimizer.param_groups
        return groups

    def zero_grad(self) -> None:
        """Forget the gradients of a step that is not made."""
        with _overflowing(self._zero):
            self._zero.step()
        self._zero.overflow = False


@contextmanager
def _overflowing(zero: Any) -> Iterator[None]:
    """Have DeepSpeed's own way of leaving a step out clear what it has collected."""
    looks, check = zero.check_grad_overflow, zero.check_overflow

    def say_so(**_: Any) -> None:
        zero.overflow = True

    zero.check_grad_overflow, zero.check_overflow = True, say_so
    try:
        yield
    finally:
        zero.check_grad_overflow, zero.check_overflow = looks, check
