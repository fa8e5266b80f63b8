"""The adapter of the step at which a figure was best, in memory, in checkpoints and in `best/`.

A checkpoint carries its weights, so that a run which goes on from one knows the best of the steps
before it and of no other: the files in `best/` follow from that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from loba_tui.core import adapter_metadata as keys
from loba_tui.core.errors import NumericsError
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.adapter_files.outputs import AdapterOutput
from loba_tui.core.program.adapter_files.provenance import provenance
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.open_model import OpenModel
from loba_tui.core.program.steering.boundary import Steering
from loba_tui.core.program.validation.drawn_figure import DrawnFigure
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.best import BestSection


@dataclass(frozen=True)
class RunResult:
    """An adapter that is exported and proven.

    Attributes:
        step: The step whose weights it has.
        weights: Lends them.
        metadata: What its file says of how the step was chosen; empty for the last one.
        remark: What the report says of that, and of how training ended.
    """

    step: int
    weights: Callable[[], AbstractContextManager[None]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    remark: str | None = None


@dataclass(frozen=True)
class BestFiles:
    """The folder of the best adapter so far, written by the first process."""

    recipe: Recipe
    model: OpenModel
    output: AdapterOutput
    steering: Steering

    def write(self, step: int, metadata: Mapping[str, str]) -> bool:
        """Write the weights that are in place; return whether there was something to write.

        A file of other weights is replaced whole. Of weights that are all zero there is none.
        """
        context = self.steering.context
        changes = self.steering.settings.record
        origin = provenance(
            self.recipe, self.model.container, step, changes, context.plugins, done=step
        )
        if self.model.data is not None:
            origin[keys.DATA_KEY] = self.model.data.fingerprint
        is_written = True

        def write() -> None:
            nonlocal is_written
            self._folder.make()
            try:
                self.output.write(self._folder, {**origin, **metadata})
            except NumericsError:
                is_written = False

        num_bytes = self.output.num_bytes
        self.steering.disk.persist(write, num_bytes=num_bytes, step=step)
        found: bool = context.processes.share(is_written)
        return found

    def remove(self) -> None:
        """Remove what later steps have left that are to be made again."""
        if self.steering.context.processes.is_first and self._folder.is_there():
            self.steering.context.run_dir.folder.discard(self._folder.name)

    @property
    def _folder(self) -> OwnedFolder:
        return self.steering.context.run_dir.best


@dataclass
class BestAdapter:
    """The best adapter so far: none before a figure was told.

    Attributes:
        drawn: Reads the figure off images; None where others log it.
        num_untold: Times that the figure was due and not a number.
        tensors: The weights by name, float32 on the CPU.
    """

    section: BestSection
    files: BestFiles
    drawn: DrawnFigure | None
    step: int | None = field(default=None, init=False)
    figure: float = field(default=math.nan, init=False)
    num_untold: int = field(default=0, init=False)
    tensors: dict[str, Tensor] = field(default_factory=dict, init=False)

    def draws(self, step: int, *, is_last: bool) -> bool:
        """Say whether images are due."""
        every = self.section.every
        return self.drawn is not None and every is not None and (is_last or step % every == 0)

    def draw(self, scale: RowScale, step: int, *, is_last: bool) -> dict[str, float]:
        """Return the figure of drawn images by its name, where one is due."""
        if self.drawn is None or not self.draws(step, is_last=is_last):
            return {}
        return {self.section.by: self.drawn.read(scale)}

    def consider(
        self, step: int, figures: Mapping[str, float], parameters: Mapping[str, nn.Parameter]
    ) -> bool:
        """Keep the weights that are in place if their figure is the best so far; say whether.

        One that is no number is never the best, and of equals the earlier one stays.
        """
        if self.section.by not in figures:
            return False
        figure = float(figures[self.section.by])
        if not math.isfinite(figure):
            self.num_untold += 1
            return False
        if self.step is not None and not self._is_better(figure):
            return False
        if not self.files.write(step, self._described(step, figure)):
            return False  # nothing is learned yet
        self.step, self.figure = step, figure
        self.tensors = {n: p.detach().float().cpu().clone() for n, p in parameters.items()}
        return True

    def forget(self) -> None:
        """Begin anew, as a run does that is started again from its first step."""
        self.files.remove()

    def _is_better(self, figure: float) -> bool:
        return figure < self.figure if self.section.is_least else figure > self.figure

    def result(self, last: RunResult, parameters: Mapping[str, nn.Parameter]) -> RunResult:
        """Return the best adapter, or the last one where that is asked for or no figure was told.

        Args:
            parameters: That the weights are lent to.
        """
        if self.section.use == "last":
            return last
        remark = " ".join(filter(None, [last.remark, f"The adapter is that of {self.sentence()}."]))
        if self.step is None:
            return replace(last, remark=remark)
        found = self._described(self.step, self.figure)
        return RunResult(self.step, lambda: self.lent(parameters), found, remark)

    def _described(self, step: int, figure: float) -> dict[str, str]:
        return {
            keys.BEST_BY_KEY: self.section.by,
            keys.BEST_FIGURE_KEY: f"{figure:.6g}",
            keys.BEST_STEP_KEY: str(step),
        }

    def sentence(self) -> str:
        """Say which step it is of."""
        if self.step is None:
            return f"the last step: {self.section.by} could not be told at any"
        least = "least" if self.section.is_least else "greatest"
        return f"step {self.step}, where {self.section.by} was {least}: {self.figure:.4g}"

    @contextmanager
    def lent(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Put its weights into place; what was there comes back bit by bit."""
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        _put(self.tensors, parameters)
        try:
            yield
        finally:
            _put(before, parameters)

    def state(self) -> dict[str, Any]:
        """Return what is not a tensor, as JSON."""
        figure = None if self.step is None else self.figure
        return {"step": self.step, "figure": figure, "num_untold": self.num_untold}

    def load(
        self,
        state: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        parameters: Mapping[str, nn.Parameter],
    ) -> None:
        """Take back what `state` and `tensors` were, and have the files follow.

        Raises:
            ValueError: They are of other parameters.
        """
        step = state["step"]
        if step is not None and any(
            tensors[name].shape != parameter.shape for name, parameter in parameters.items()
        ):
            raise ValueError("the best adapter is one of other parameters")
        self.step, self.num_untold = step, int(state["num_untold"])
        self.figure = math.nan if step is None else float(state["figure"])
        self.tensors = {} if step is None else {name: tensors[name] for name in parameters}
        if step is None:
            self.files.remove()
            return
        with self.lent(parameters):
            self.files.write(step, self._described(step, self.figure))


def _put(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
