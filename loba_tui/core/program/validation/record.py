"""The validation losses of a run so far, and what they say of overfitting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from loba_tui.core.program.processes import Processes
from loba_tui.core.program.validation.fixed_loss import FixedLoss

RISES = 3
"""So many evaluations in a row, each above the one before, are no chance at fixed noise."""


@dataclass(frozen=True)
class Evaluation:
    """Losses after some step, at the same noise as after any other.

    Attributes:
        loss: On what is held out.
        training_loss: On as much that is trained on; None where it is not asked for.
    """

    step: int
    loss: float
    training_loss: float | None = None

    @property
    def gap(self) -> float | None:
        """How much higher the loss is on what is held out."""
        return None if self.training_loss is None else self.loss - self.training_loss

    def sentence(self) -> str:
        """Return the figures in a few words."""
        if self.gap is None:
            return f"{self.loss:.4g} after step {self.step}"
        side = "above" if self.gap >= 0 else "below"
        return f"{self.loss:.4g} after step {self.step}, {abs(self.gap):.2g} {side} training's"

    def metrics(self) -> dict[str, float]:
        """Return the figures for the metrics file."""
        found = {"validation_loss": self.loss}
        if self.training_loss is not None:
            found["validation_training_loss"] = self.training_loss
        return found


@dataclass
class Validation:
    """The evaluations of a run, and those that a resumed one goes on from.

    Attributes:
        held_out: The loss on what is not trained on.
        trained: The loss on as much that is; None where it is not asked for.
        processes: They share the work, and all take the same figures.
        forward_needs_all: As the engine's.
    """

    held_out: FixedLoss
    trained: FixedLoss | None
    every: int
    processes: Processes
    forward_needs_all: bool = False
    evaluations: list[Evaluation] = field(default_factory=list, init=False)

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Say whether an evaluation belongs after `step` steps."""
        return is_last or step % self.every == 0

    @property
    def num_unet_rows(self) -> int:
        """UNet rows that all evaluations have cost so far on this process."""
        trained = self.trained.num_unet_rows if self.trained is not None else 0
        return self.held_out.num_unet_rows + trained

    def evaluate(self, step: int) -> Evaluation:
        """Evaluate the weights as they are now, and note it."""
        trained = None if self.trained is None else self._mean(self.trained)
        found = Evaluation(step, self._mean(self.held_out), trained)
        # A resumed run whose steps were raised has been evaluated at its former last one.
        self.evaluations = [each for each in self.evaluations if each.step < step]
        self.evaluations.append(found)
        return found

    def _mean(self, loss: FixedLoss) -> float:
        processes = self.processes
        total, count = processes.add(
            *loss.summed(processes.data_rank, processes.num_data, equally=self.forward_needs_all)
        )
        return total / count

    def overfits(self) -> str | None:
        """Return in one sentence that the loss has risen for some time, once each time."""
        if not rises(self.evaluations) or rises(self.evaluations[:-1]):
            return None
        least = min(self.evaluations, key=lambda each: (each.loss, each.step))
        first, last = self.evaluations[-1 - RISES], self.evaluations[-1]
        training = ""
        if last.training_loss is not None and first.training_loss is not None:
            fell = last.training_loss <= first.training_loss
            way = "does not" if fell else "rises too"
            training = f", and that on what is trained on {way}"
        meaning = "the adapter overfits" if "does not" in training else "training makes it worse"
        return (
            f"The validation loss has risen for {RISES} evaluations, from {first.loss:.4g} after"
            f" step {first.step} to {last.loss:.4g} after step {last.step}{training}: {meaning}."
            f" It was least, {least.loss:.4g}, after step {least.step}."
        )

    def state(self) -> list[dict[str, Any]]:
        """Return the evaluations as JSON."""
        return [asdict(each) for each in self.evaluations]

    def load_state(self, state: Sequence[dict[str, Any]]) -> None:
        """Take back what `state` returned."""
        self.evaluations = [Evaluation(**each) for each in state]


def rises(evaluations: Sequence[Evaluation]) -> bool:
    """Say whether each of the last evaluations is above the one before."""
    recent = [each.loss for each in evaluations[-1 - RISES :]]
    if len(recent) <= RISES or not all(map(math.isfinite, recent)):
        return False
    return all(after > before for before, after in pairwise(recent))
