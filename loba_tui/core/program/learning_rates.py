"""Learning rates as functions of the step alone, which is what a resumed run needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from loba_tui.core.errors import RecipeError


@dataclass
class LearningRates:
    """One learning rate a parameter group: base · model schedule(step) · layer factor.

    Two LambdaLR on one optimizer overwrite each other, so both factors are multiplied here, in
    closed form: the rate depends on the step alone and needs no state to resume. Another base rate
    or schedule, such as that of a longer run, holds from the next step on.
    """

    optimizer: torch.optim.Optimizer
    base_lr: float
    step_factor: Callable[[int], float]
    group_factors: Sequence[float]

    def set(self, step: int) -> float:
        """Set the rates of `step` (0-based) and return the rate of an unscaled layer."""
        rate = self.base_lr * self.step_factor(step)
        for group, factor in zip(self.optimizer.param_groups, self.group_factors, strict=True):
            group["lr"] = rate * factor
        return rate


def stand_in_optimizer(learning_rate: float) -> torch.optim.Optimizer:
    """Return an optimizer that trains nothing."""
    parameter = torch.nn.Parameter(torch.zeros(()))
    return torch.optim.SGD([parameter], lr=learning_rate, momentum=0.9)


class RecordedRates:
    """The factor of a step, from a torch scheduler.

    A torch scheduler counts for itself and writes into its optimizer. Here it runs ahead on a
    stand-in optimizer whose rates are noted, so the rate depends on the step alone, is the same
    after a resume, and multiplies with the layer factors like any other.

    Args:
        scheduler: Made for a `stand_in_optimizer`; errors call it by `where`.

    Raises:
        RecipeError: Its rates do not depend on the step alone.
    """

    def __init__(self, scheduler: LRScheduler, *, where: str) -> None:
        if isinstance(scheduler, ReduceLROnPlateau):
            raise RecipeError(
                f"{where}: ReduceLROnPlateau looks at the loss; a schedule is of the step alone",
                "Return another scheduler, or a function of the step.",
            )
        self._scheduler = scheduler
        self._optimizer = scheduler.optimizer
        self._where = where
        # Schedules such as OneCycleLR set rates of their own, whatever the recipe's is.
        self._base_lr = float(self._optimizer.defaults["lr"])
        self._others = self._other_settings()
        self._factors = [float(self._optimizer.param_groups[0]["lr"]) / self._base_lr]

    def __call__(self, step: int) -> float:
        """Return the factor of a 0-based step."""
        while len(self._factors) <= step:
            self._optimizer.step()
            try:
                self._scheduler.step()
            except ValueError as error:  # OneCycleLR ends at its own number of steps
                at = len(self._factors)
                raise RecipeError(f"{self._where}: at step {at}: {error}") from error
            if self._other_settings() != self._others:
                raise RecipeError(
                    f"{self._where}: it changes more than the learning rate, which is not carried",
                    "Switch that off; OneCycleLR and CyclicLR take cycle_momentum=False.",
                )
            rate = float(self._optimizer.param_groups[0]["lr"])
            self._factors.append(rate / self._base_lr)
        return self._factors[step]

    def _other_settings(self) -> dict[str, Any]:
        changing = ("params", "lr", "initial_lr")
        (group,) = self._optimizer.param_groups
        return {key: value for key, value in group.items() if key not in changing}
