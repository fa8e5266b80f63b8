"""An optimizer's state by parameter name, as tensors and plain JSON, and its learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from loba_tui.core.errors import CorruptError

_SEPARATOR = "::"


class LearningRates:
    """One learning rate a parameter group: base · model schedule(step) · layer factor.

    Two LambdaLR on one optimizer overwrite each other, so both factors are multiplied here, in
    closed form: the rate depends on the step alone and needs no state to resume.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        base_lr: float,
        step_factor: Callable[[int], float],
        group_factors: Sequence[float],
    ) -> None:
        self._optimizer = optimizer
        self._base_lr = base_lr
        self._step_factor = step_factor
        self._group_factors = group_factors

    def set(self, step: int) -> float:
        """Set the rates of `step` (0-based) and return the rate of an unscaled layer."""
        rate = self._base_lr * self._step_factor(step)
        for group, factor in zip(self._optimizer.param_groups, self._group_factors, strict=True):
            group["lr"] = rate * factor
        return rate


def export_state(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the optimizer's tensors by "parameter::key", and the rest as JSON.

    Args:
        optimizer: Any torch optimizer.
        names: Name of each of its parameters.
    """
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            name = f"{names[parameter]}{_SEPARATOR}{key}"
            if isinstance(value, Tensor):
                tensors[name] = value.detach().cpu().clone()
            else:
                scalars[name] = value
    groups = [
        {key: value for key, value in group.items() if key not in ("params", "lr")}
        for group in optimizer.param_groups
    ]
    return tensors, {"scalars": scalars, "groups": groups}


def import_state(
    optimizer: torch.optim.Optimizer,
    names: Mapping[Tensor, str],
    tensors: Mapping[str, Tensor],
    plain: Mapping[str, Any],
) -> None:
    """Take back what `export_state` returned.

    Raises:
        CorruptError: If it belongs to other parameters or groups.
    """
    parameters = {name: parameter for parameter, name in names.items()}
    states: dict[Tensor, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *plain["scalars"].items()]:
        parameter_name, _, key = name.rpartition(_SEPARATOR)
        if parameter_name not in parameters:
            raise CorruptError(
                f"the checkpoint has optimizer state of {parameter_name!r}, unknown here"
            )
        parameter = parameters[parameter_name]
        if isinstance(value, Tensor):
            # A step counter stays on the CPU; moments follow their parameter.
            value = value.to(parameter.device) if value.ndim else value.clone()
        states.setdefault(parameter, {})[key] = value
    if len(plain["groups"]) != len(optimizer.param_groups):
        raise CorruptError("the checkpoint has another number of parameter groups")
    for parameter, state in states.items():
        optimizer.state[parameter] = state
    for group, saved in zip(optimizer.param_groups, plain["groups"], strict=True):
        for key, value in saved.items():
            group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
