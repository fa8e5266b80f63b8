"""An optimizer's state by parameter name, as tensors and plain JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from loba_tui.core.errors import CorruptError

_SEPARATOR = "::"


@contextmanager
def weights_put_back(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Let others take the weights' place for a while; the weights come back bit by bit."""
    kept = [(parameter, parameter.detach().clone()) for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, weights in kept:
                parameter.copy_(weights)


@contextmanager
def averaged_weights(optimizer: Any, parameters: Iterable[Tensor]) -> Iterator[None]:
    """Lend the weights that are the result, where an optimizer trains at other ones.

    Schedule-free optimizers do. Going back by their own arithmetic would leave a rounding error, so
    that a strip drawn in between would change the training: the weights are copied and put back.
    """
    inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate's wrapper has both methods
    if not (hasattr(inner, "eval") and hasattr(inner, "train")):
        yield
        return
    with weights_put_back(parameters):
        inner.eval()
        try:
            yield
        finally:
            inner.train()


def export_state(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the optimizer's tensors by "parameter::key", and the rest as JSON."""
    tensors: dict[str, Tensor] = {}
    parameters = {
        names[parameter]: {
            key: _packed(value, f"{names[parameter]}{_SEPARATOR}{key}", tensors)
            for key, value in state.items()
        }
        for parameter, state in optimizer.state.items()
    }
    groups = [
        {
            key: _packed(value, f"group {number}{_SEPARATOR}{key}", tensors)
            for key, value in group.items()
            if key not in ("params", "lr")
        }
        for number, group in enumerate(optimizer.param_groups)
    ]
    return tensors, {"parameters": parameters, "groups": groups}


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
    for name in plain["parameters"]:
        if name not in parameters:
            raise CorruptError(f"the checkpoint has optimizer state of {name!r}, unknown here")
    if len(plain["groups"]) != len(optimizer.param_groups):
        raise CorruptError("the checkpoint has another number of parameter groups")
    for name, state in plain["parameters"].items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            key: _unpacked(value, tensors, parameter.device) for key, value in state.items()
        }
    for group, saved in zip(optimizer.param_groups, plain["groups"], strict=True):
        device = group["params"][0].device
        group.update({key: _unpacked(value, tensors, device) for key, value in saved.items()})


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON, with its tensors moved to `tensors` under names that begin so."""
    match value:
        case Tensor():
            tensors[name] = value.detach().cpu().clone()
            return {"tensor": name, "is_on_cpu": value.device.type == "cpu"}
        case dict():
            return {"dict": {k: _packed(v, f"{name}.{k}", tensors) for k, v in value.items()}}
        case list() | tuple():
            items = [_packed(item, f"{name}.{at}", tensors) for at, item in enumerate(value)]
            return {type(value).__name__: items}
        case float() if not math.isfinite(value):
            return {"float": str(value)}  # JSON has no infinity
        case bool() | int() | float() | str() | None:
            return value
    raise TypeError(f"optimizer state {name} is of type {type(value).__name__}")


def _unpacked(value: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    match value:
        case {"tensor": str(name), "is_on_cpu": bool(is_on_cpu)}:
            if name not in tensors:
                raise CorruptError(f"the checkpoint lacks {name!r} of the optimizer's state")
            # A step counter stays on the CPU, where torch wants it; moments follow their parameter.
            stays = is_on_cpu and tensors[name].ndim == 0
            return tensors[name].clone() if stays else tensors[name].to(device, copy=True)
        case {"dict": dict(items)}:
            return {key: _unpacked(item, tensors, device) for key, item in items.items()}
        case {"list": list(items)}:
            return [_unpacked(item, tensors, device) for item in items]
        case {"tuple": list(items)}:
            return tuple(_unpacked(item, tensors, device) for item in items)
        case {"float": str(text)}:
            return float(text)
    return value
