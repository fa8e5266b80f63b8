"""An elementwise loss, whether or not it depends on the timestep."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from loba_tui.core.errors import RecipeError


class TimedLoss:
    """Calls a loss drop-in; one whose function has a keyword `t` gets the timestep too."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        self._loss = loss
        try:
            self._needs_timestep = "t" in inspect.signature(loss).parameters
        except (TypeError, ValueError):  # some builtins do not tell
            self._needs_timestep = False

    def __call__(self, prediction: Tensor, target: Tensor, t: Tensor | None = None) -> Tensor:
        """Return the loss (B, C, H, W) of a prediction and its target.

        Args:
            prediction: (B, C, H, W) float32.
            target: Of the same shape.
            t: (B,) timesteps from 0, clean, to 1, noise; None where the caller has none.
        """
        if not self._needs_timestep:
            values: Tensor = self._loss(prediction, target)
        elif t is None:
            raise RecipeError(
                "loss: this loss depends on the timestep, and the chosen method does not tell it",
                "Take a loss without a schedule.",
            )
        else:
            values = self._loss(prediction, target, t=t)
        return values
