"""Draws what a slider is calibrated by: prompts that it was trained on, with noise of their own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.evaluation.calibration.search import Seen
from loba_tui.core.program.evaluation.image_health import inspect_images
from loba_tui.core.program.evaluation.measure import (
    MeasureContext,
    kept_within,
    measure,
    read_values,
)
from loba_tui.core.program.evaluation.preservation import clean_scales, measure_preservation
from loba_tui.core.program.evaluation.slider_effect import measure_effect
from loba_tui.core.program.open_model import Embeddings
from loba_tui.core.program.sampling.images import Progress
from loba_tui.core.program.sampling.recipe_images import Grid, draw_grid
from loba_tui.core.program.spread import spread
from loba_tui.core.recipe.schema import Recipe

MOST_PROMPTS = 12
_FIRST_SEED = 7000
_EXPECTED_SCALES = 10


def calibration_prompts(recipe: Recipe, captions: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the prompts that a recipe's slider is calibrated on, none of the proof's among them.

    Args:
        captions: Of the images that it is trained on, for methods without concepts.

    Raises:
        RecipeError: There are none.
    """
    section = recipe.proof.calibrate
    given = section.prompts if section is not None else ()
    targets = [concept.target for concept in recipe.method.expanded_concepts]
    known = given or targets or captions
    prompts = [p for p in dict.fromkeys(known) if p and p not in recipe.proof.prompts]
    if not prompts:
        raise RecipeError(
            "proof.calibrate: no prompt is trained that is not one of the proof's",
            "Name some in proof.calibrate.prompts.",
        )
    return tuple(spread(prompts, MOST_PROMPTS))


def calibration_grid(recipe: Recipe, prompts: Sequence[str]) -> Grid:
    """Return prompts and seeds of the looks; the proof and the strips have other seeds."""
    section = recipe.proof.calibrate
    assert section is not None, "it is calibrated"
    taken = {*recipe.proof.seeds, *recipe.sample.seeds}
    free = (seed for seed in itertools.count(_FIRST_SEED) if seed not in taken)
    seeds = tuple(itertools.islice(free, math.ceil(section.samples / len(prompts))))
    return Grid(prompts, seeds, ())


def expected_images(recipe: Recipe) -> int:
    """Return about how many images are drawn; a search takes more scales, or fewer."""
    section = recipe.proof.calibrate
    return section.samples * _EXPECTED_SCALES if section is not None else 0


@dataclass
class Looks:
    """Draws images of a grid's prompts and seeds at scales, and reads off what they show.

    Attributes:
        grid: Its scales are not read.
        num_images: How many were drawn so far.
    """

    container: ModelContainer
    scale: RowScale
    recipe: Recipe
    embeds: Embeddings
    grid: Grid
    plugins: Plugins
    progress: Progress | None = None
    num_images: int = 0
    _base: np.ndarray | None = field(default=None, repr=False)

    @property
    def num_samples(self) -> int:
        """Images at one scale."""
        return len(self.grid.prompts) * len(self.grid.seeds)

    @property
    def num_unet_rows(self) -> int:
        """UNet rows of all images so far."""
        settings = self.recipe.sample
        return self.num_images * settings.steps * settings.rows_per_image

    @property
    def size(self) -> float:
        """How large the measured value is in the base's images, or how far they differ in it."""
        values = self._measured(self._base_images()[:, None])
        if not np.isfinite(values).any():
            return 0.0
        return max(abs(float(np.nanmean(values))), float(np.nanstd(values)))

    def __call__(self, scales: Sequence[float]) -> list[Seen]:
        """Draw the images of scales, none of them 0, and return what each shows."""
        proof, grid = self.recipe.proof, sorted([*scales, 0.0])
        assert proof.measure is not None, "the recipe's schema asks for one"
        base = self._base_images()
        samples = np.insert(self._drawn(sorted(scales)), grid.index(0.0), base, axis=1)
        context = MeasureContext(grid.index(0.0), self.container.device)
        measured = measure(proof.measure, samples, self.plugins, context)
        kept = [
            measure_preservation(
                choice.name,
                read_values(choice, samples, self.plugins, context),
                grid,
                kept_within(choice, self.plugins),
            )
            for choice in proof.preserve
        ]
        whole = clean_scales(
            measure_effect(grid, measured), kept, inspect_images(samples, grid.index(0.0))
        )
        effects = [self._effect(measured.values[:, grid.index(0.0)], v) for v in measured.values.T]
        at = {scale: number for number, scale in enumerate(grid)}
        return [Seen(effects[at[scale]], bool(whole[at[scale]])) for scale in scales]

    def _effect(self, before: np.ndarray, after: np.ndarray) -> float:
        section = self.recipe.proof.calibrate
        assert section is not None, "it is calibrated"
        return effect_of(before, after, is_ratio=section.ratio is not None)

    def _measured(self, samples: np.ndarray) -> np.ndarray:
        choice = self.recipe.proof.measure
        assert choice is not None, "the recipe's schema asks for one"
        context = MeasureContext(0, self.container.device)
        return measure(choice, samples, self.plugins, context).values

    def _base_images(self) -> np.ndarray:
        if self._base is None:
            self._base = self._drawn([0.0])[:, 0]
        return self._base

    def _drawn(self, scales: Sequence[float]) -> np.ndarray:
        """Return the images (num_samples, num_scales, H, W, 3)."""
        before = self.num_images
        wanted = before + self.num_samples * len(scales)

        def on_progress(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(before + done, max(wanted, expected_images(self.recipe)))

        images = draw_grid(
            self.container,
            self.scale,
            self.recipe,
            self.embeds,
            Grid(self.grid.prompts, self.grid.seeds, scales),
            progress=on_progress,
            plugins=self.plugins,
        )
        self.num_images = wanted
        return images.reshape(-1, *images.shape[2:])


def effect_of(before: np.ndarray, after: np.ndarray, *, is_ratio: bool) -> float:
    """Return the effect of a scale over all samples that could be measured without it and with it.

    It is the logarithm of the ratio of the means, or their difference; NaN where there is none.
    """
    both = np.isfinite(before) & np.isfinite(after)
    if not both.any():
        return float("nan")
    mean_before, mean_after = float(before[both].mean()), float(after[both].mean())
    if not is_ratio:
        return mean_after - mean_before
    return math.log(mean_after / mean_before) if min(mean_before, mean_after) > 0 else float("nan")
