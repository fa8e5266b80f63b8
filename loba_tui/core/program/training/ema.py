"""An exponential moving average of the trained weights: the result of a run with `train.ema`.

After step n it moves a share 1 − d of the way to the weights, d = min(decay, n / (n + 9)): the
first steps, near the random beginning, are soon forgotten. Averaging the end of a run smooths out
the noise that a constant learning rate leaves (Polyak and Juditsky 1992,
https://doi.org/10.1137/0330046).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.training.optimizer_state import weights_put_back
from loba_tui.core.recipe.schema import EmaSection, OptimizerSection


class MovingAverage:
    """The average of parameters by name, lent in their place to be drawn, measured and exported."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], section: EmaSection) -> None:
        self._parameters = parameters
        self._model = EMAModel(parameters.values(), decay=section.decay)

    @property
    def num_steps(self) -> int:
        """Steps that have entered the average."""
        return int(self._model.optimization_step)

    def restart(self) -> None:
        """Begin anew at the weights as they are, before any step has entered."""
        for average, parameter in zip(
            self._model.shadow_params, self._parameters.values(), strict=True
        ):
            average.copy_(parameter.detach())

    def step(self) -> None:
        """Let the weights of the step that was just made enter."""
        self._model.step(self._parameters.values())

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Put the average in the weights' place; the weights come back bit by bit."""
        with weights_put_back(self._parameters.values()):
            self._model.copy_to(self._parameters.values())
            yield

    def tensors(self) -> dict[str, Tensor]:
        """Return the average by parameter name, on the CPU."""
        averages = zip(self._parameters, self._model.shadow_params, strict=True)
        return {name: average.detach().cpu().clone() for name, average in averages}

    def load(self, tensors: Mapping[str, Tensor], num_steps: int) -> None:
        """Take back what `tensors` and `num_steps` were.

        Raises:
            ValueError: It is of other parameters.
        """
        for name, parameter in self._parameters.items():
            if tensors[name].shape != parameter.shape:
                raise ValueError(f"the average of {name} is {list(tensors[name].shape)} there")
        self._model.shadow_params = [
            tensors[name].to(parameter.device, copy=True)
            for name, parameter in self._parameters.items()
        ]
        self._model.optimization_step = int(num_steps)


def make_average(
    section: EmaSection | None,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    chosen: OptimizerSection,
) -> MovingAverage | None:
    """Return the average that the recipe asks for, None where it asks for none.

    Raises:
        RecipeError: The optimizer's own result is an average already.
    """
    if section is None:
        return None
    if hasattr(optimizer, "eval") and hasattr(optimizer, "train"):
        raise RecipeError(
            f"train.ema: {chosen.name} averages the weights itself, and that average is its result",
            "Leave train.ema out, or take another optimizer.",
        )
    return MovingAverage(parameters, section)
