"""Protocol of the run that makes an adapter: step by step, or computed at once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import nn

from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.steering.boundary import Steered, Steering
from loba_tui.core.program.training.checkpoint import Checkpoint
from loba_tui.core.program.validation.best import RunResult


class AdapterRun(Steered, Protocol):
    """A run from its first step to the finished adapter.

    Attributes:
        step: Steps that are done.
        inexact: In what the run differs, for good, from one that was never resumed.
        init_from: The adapter file that it began with, as `begin_with` tells; None for none.
    """

    steering: Steering
    inexact: list[str]
    init_from: Mapping[str, Any] | None

    @property
    def scale(self) -> RowScale:
        """Strength of the adapter."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The adapter's weights by name."""

    @property
    def ended_early(self) -> str | None:
        """Why the run ended itself before its last step; None where it did not."""

    @property
    def stop_reason(self) -> str | None:
        """Why its checks say that no more steps are needed; None where they do not."""

    @property
    def result(self) -> RunResult:
        """The adapter that is exported and proven."""

    def run(self, until: int | None = None) -> None:
        """Make the steps that are left, or those until `until` are done.

        Raises:
            Interrupted: The run was asked to stop.
        """

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Lend the weights to draw, measure and export, where other ones are trained at."""

    def load_newest(
        self, *, allow_inexact: bool | None = None
    ) -> tuple[Checkpoint | None, list[str]]:
        """Go on from the newest checkpoint that verifies; return it, and why others were skipped.

        Args:
            allow_inexact: Put up with one that another machine made; None as before. `inexact` then
                says for good what was different.

        Raises:
            RecipeError: It is of another recipe, or of another machine.
            CorruptError: There are checkpoints, but none verifies, or not one of this run.
        """
