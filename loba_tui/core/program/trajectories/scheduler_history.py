"""History that a diffusers scheduler keeps of one trajectory, as tensors.

Multistep schedulers keep past predictions, and all keep their place on the grid. Several
trajectories on one grid therefore need a scheduler each; a checkpoint keeps only what such a copy
has that the laid-out grid has not.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loba_tui.core.errors import CorruptError

_DTYPES = {"bool": torch.bool, "int": torch.int64, "float": torch.float64}
_NAME = re.compile(r"(?P<key>\w+)(?:\[(?P<place>\d+)\])?:(?P<kind>tensor|none|list|bool|int|float)")


def fresh_copy(grid: Any) -> Any:
    """Return a scheduler that shares the grid's tensors and has a history of its own.

    Args:
        grid: A scheduler after `set_timesteps` and before its first step.
    """
    scheduler = copy.copy(grid)
    for key, value in vars(grid).items():
        if isinstance(value, list):  # histories are lists that steps change in place
            setattr(scheduler, key, list(value))
    return scheduler


def export_history(scheduler: Any, grid: Any) -> dict[str, Tensor]:
    """Return everything in which `scheduler` differs from the `grid` that it is a copy of."""
    missing = object()
    history: dict[str, Tensor] = {}
    for key, value in vars(scheduler).items():
        if _is_same(value, vars(grid).get(key, missing)):
            continue
        if isinstance(value, list):
            history[f"{key}:list"] = torch.tensor(len(value))
            for place, item in enumerate(value):
                _pack(f"{key}[{place}]", item, history)
        else:
            _pack(key, value, history)
    return history


def import_history(grid: Any, history: Mapping[str, Tensor], device: torch.device) -> Any:
    """Return a copy of `grid` that goes on where the exported one was.

    Args:
        grid: Laid out as the exported scheduler's was.
        history: From `export_history`.
        device: Of the trajectory's latents.

    Raises:
        CorruptError: The history is not one.
    """
    scheduler = fresh_copy(grid)
    for name, tensor in history.items():
        if name.endswith(":list"):
            setattr(scheduler, name.removesuffix(":list"), [None] * int(tensor))
    for name, tensor in history.items():
        found = _NAME.fullmatch(name)
        if found is None:
            raise CorruptError(f"the checkpoint has a scheduler history called {name!r}")
        key, place, kind = found["key"], found["place"], found["kind"]
        if kind == "list":
            continue
        value = _unpack(tensor, kind, device)
        if place is None:
            setattr(scheduler, key, value)
        else:
            getattr(scheduler, key)[int(place)] = value
    return scheduler


def _is_same(value: Any, other: Any) -> bool:
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_is_same, value, other))
    if isinstance(value, bool | int | float) and type(value) is type(other):
        return bool(value == other)
    return value is other


def _pack(name: str, value: Any, history: dict[str, Tensor]) -> None:
    match value:
        case Tensor():
            history[f"{name}:tensor"] = value.detach().cpu().clone()
        case None:
            history[f"{name}:none"] = torch.zeros(0)
        case bool() | int() | float():
            kind = type(value).__name__
            history[f"{name}:{kind}"] = torch.tensor(value, dtype=_DTYPES[kind])
        case _:
            raise TypeError(f"a scheduler's {name} is of type {type(value).__name__}")


def _unpack(tensor: Tensor, kind: str, device: torch.device) -> Any:
    if kind == "none":
        return None
    if kind != "tensor":
        return tensor.item()
    # Noise levels and timesteps are scalars on the CPU; predictions lie where the latents are.
    return tensor.to(device, copy=True) if tensor.ndim else tensor.clone()
