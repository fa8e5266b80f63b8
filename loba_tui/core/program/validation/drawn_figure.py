"""A figure of drawn images, by any measure, to compare the steps of a run with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.engines.base import Engine
from loba_tui.core.program.evaluation.eraser_effect import JUDGED_SCALE
from loba_tui.core.program.evaluation.measure import MeasureContext, measure, read_values
from loba_tui.core.program.evaluation.slider_effect import base_index, measure_effect
from loba_tui.core.program.open_model import OpenModel
from loba_tui.core.program.sampling.recipe_images import Grid, draw_grid
from loba_tui.core.program.steering.components import Components
from loba_tui.core.program.steering.context import RunContext
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.best import BestSection
from loba_tui.core.recipe.sections.method import Choice

LEAST_TOLD = 0.5
"""A mean over fewer of the images than this share says more of which ones could be told."""


@dataclass
class DrawnFigure:
    """Draws the same prompts and seeds again and again, and reads one figure off the images."""

    recipe: Recipe
    section: BestSection
    model: OpenModel
    components: Components
    context: RunContext
    engine: Engine
    _base: np.ndarray | None = field(default=None, repr=False)

    @property
    def scales(self) -> tuple[float, ...]:
        """Scales that are drawn, ascending, 0 among them."""
        return scales_of(self.recipe, self.section)

    @property
    def _prompts(self) -> tuple[str, ...]:
        return self.section.prompts or self.recipe.sample_prompts

    def read(self, scale: RowScale) -> float:
        """Return the figure of the adapter as it is now; NaN where the measure cannot tell.

        A run that is asked to stop draws it to its end: without it the run could not go on exactly.
        """
        figure = math.nan
        with self.engine.led() as leads:
            if leads:
                with self.components.lent(), torch.random.fork_rng(devices=[]):
                    figure = self._read(self._images(scale))
        shared: float = self.context.processes.share(figure)
        return shared

    def _images(self, scale: RowScale) -> np.ndarray:
        """Return images (num_samples, num_scales, H, W, 3)."""
        if self._base is None:
            self._base = self._drawn(scale, (0.0,))[:, 0]
        others = tuple(each for each in self.scales if each)
        return np.insert(self._drawn(scale, others), base_index(self.scales), self._base, 1)

    def _drawn(self, scale: RowScale, scales: tuple[float, ...]) -> np.ndarray:
        images = draw_grid(
            self.model.container,
            scale,
            self.recipe,
            self.model.drawn_embeds,
            Grid(self._prompts, self.section.seeds, scales),
            plugins=self.context.plugins,
        )
        return images.reshape(-1, *images.shape[2:])

    def _read(self, images: np.ndarray) -> float:
        choice = self.section.measure or self.recipe.proof.measure
        assert choice is not None, "the recipe's check asks for one"
        context = MeasureContext(base_index(self.scales), self.model.container.device)
        label = self.section.label or self.recipe.proof.erased
        return figure_of(
            self.section.by, images, self.scales, choice, label, self.context.plugins, context
        )


def scales_of(recipe: Recipe, section: BestSection) -> tuple[float, ...]:
    """Return the scales that a figure is of, ascending, 0 among them."""
    along = section.by in ("measured_rho", "measured_effect")
    wanted = recipe.sample.scales if along else (JUDGED_SCALE,)
    return tuple(sorted({0.0, *map(float, wanted)}))


def images_of_best(recipe: Recipe) -> int:
    """Return how many images a run draws to find its best step; those of the base come once."""
    section = recipe.save.best
    if section is None or section.every is None:
        return 0
    num_figures = -(-recipe.train.steps // section.every)
    num_samples = len(section.prompts or recipe.sample_prompts) * len(section.seeds)
    return num_samples * (1 + num_figures * (len(scales_of(recipe, section)) - 1))


def figure_of(
    by: str,
    images: np.ndarray,
    scales: tuple[float, ...],
    choice: Choice,
    label: str | None,
    plugins: Plugins,
    context: MeasureContext,
) -> float:
    """Return a figure of images (num_samples, num_scales, H, W, 3).

    Args:
        by: As `save.best.by` has it.
        scales: Ascending, 0 among them.
        label: Whose share `measured_share` is.
    """
    if by == "measured_share":
        shown = read_values(choice, images, plugins, context)[:, scales.index(JUDGED_SCALE)]
        return float((shown == label).astype(float).mean())
    measured = measure(choice, images, plugins, context)
    if by == "measured_rho":
        # Samples that cannot be told count as 0 there.
        return measure_effect(scales, measured).rho.mean
    if by == "measured_mean":
        return _mean(measured.values[:, scales.index(JUDGED_SCALE)])
    return _mean(measured.values[:, -1] - measured.values[:, 0])


def _mean(values: np.ndarray) -> float:
    told = np.isfinite(values)
    return float(values[told].mean()) if told.mean() >= LEAST_TOLD else math.nan
