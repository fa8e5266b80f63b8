"""The figures of a step, left on the accelerator until all of them are read at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from loba_tui.core.program.engines.base import Engine


class StepFigures:
    """Collects what the micro-steps of a step tell of themselves.

    Reading a figure makes the host wait for everything that the accelerator was given before, so
    that it is done once a step.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._values: list[Tensor] = []
        self._parts: list[int] = []

    def add(self, figures: Mapping[str, Tensor], num_parts: int = 1) -> None:
        """Take the scalars of one of `num_parts` equal parts of the step."""
        for name, value in figures.items():
            self._names.append(name)
            self._values.append(torch.as_tensor(value).detach().reshape(()))
            self._parts.append(num_parts)

    def read(self, engine: Engine, rows: int) -> dict[str, float]:
        """Return the mean of each figure over the step, and the rows so far as "forwards".

        Of several processes it is the mean of the figures and the sum of the rows: that mean is bad
        where one of them is, so that all decide alike.
        """
        accelerator, processes = engine.accelerator, engine.processes
        if processes.num == 1:
            values = _read(self._values)
            return {**self._summed(values), "forwards": rows}
        device = accelerator.device
        own = [value.to(device, torch.float32) for value in self._values]
        local = torch.stack([*own, torch.tensor(float(rows), device=device)])
        *values, mean_rows = accelerator.reduce(local, reduction="mean").tolist()
        return {**self._summed(values), "forwards": round(mean_rows * processes.num_data)}

    def _summed(self, values: list[float]) -> dict[str, float]:
        totals: dict[str, float] = {}
        for name, value, num_parts in zip(self._names, values, self._parts, strict=True):
            totals[name] = totals.get(name, 0.0) + value / num_parts
        return totals


def _read(values: list[Tensor]) -> list[float]:
    """Return all of them with one copy of what is not on the host."""
    away = [value for value in values if value.device.type != "cpu"]
    read = iter(torch.stack([value.float() for value in away]).tolist() if away else ())
    return [float(value) if value.device.type == "cpu" else next(read) for value in values]
