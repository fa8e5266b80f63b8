"""Draw the strips of a run into its folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from loba_tui.core.errors import Interrupted, LobaError
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.engines.base import Engine
from loba_tui.core.program.open_model import OpenModel
from loba_tui.core.program.sampling.recipe_images import DrawnGrid, Grid, draw_grid, grid_png
from loba_tui.core.program.steering.components import Components
from loba_tui.core.program.steering.context import RunContext
from loba_tui.core.recipe.schema import Recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StripDrawer:
    """Draws what a run's adapter does; a strip that fails is noted and never ends the run."""

    recipe: Recipe
    model: OpenModel
    context: RunContext
    components: Components
    engine: Engine

    def draw(self, scale: RowScale, step: int, drawn: DrawnGrid | None = None) -> None:
        """Draw the strip of a step.

        Args:
            drawn: Images that the adapter has made at this step already; the strip is cut out of
                them where they have all that belongs to it.

        Raises:
            Interrupted: The run was asked to stop meanwhile.
        """
        records = self.context.records
        grid, file = Grid.of_samples(self.recipe), self.context.run_dir.sample_strip(step)
        try:
            if drawn is not None and grid.lies_in(drawn.grid):
                images = drawn.part(grid)
            else:
                images = self._drawn(scale, grid, step)
            file.replace(grid_png(images, grid))
            records.event("sampled", step=step, path=str(file))
        except Interrupted:
            raise
        # Torch raises out of memory as a RuntimeError; loading the VAE again may fail.
        except (RuntimeError, OSError, LobaError) as error:
            logger.exception("the strip of step %d failed", step)
            records.event("sample_failed", step=step, message=str(error))

    def _drawn(self, scale: RowScale, grid: Grid, step: int) -> np.ndarray:
        return draw_grid(
            self.model.container,
            scale,
            self.recipe,
            self.model.drawn_embeds,
            grid,
            progress=lambda done, total: go_on_or_stop(self.context, step),
            plugins=self.context.plugins,
        )

    def draw_between_steps(self, scale: RowScale, step: int) -> None:
        """Draw on the first process; components that come for it go again, as training goes on."""
        with self.engine.led() as leads:
            if leads:
                with self.components.lent():
                    self.draw(scale, step)


def go_on_or_stop(context: RunContext, step: int) -> None:
    """Raise Interrupted where a run is to stop between two images."""
    if context.stop.is_set:
        raise Interrupted(
            f"stopped after step {step} while images were drawn; the state is saved",
            "Go on with: loba run --resume RUN",
        )
