"""Reads figures and labels off images by the measures that a recipe names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.drop_ins import load_choice
from loba_tui.core.program.evaluation.slider_effect import Measurement
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice

Measure = Callable[[np.ndarray], float | str | None]
"""Reads a value or a label off an image (H, W, 3) in [0, 1]; None where it cannot be told."""


def measure(choice: Choice, samples: np.ndarray, plugins: Plugins) -> Measurement:
    """Apply a measure to images (num_samples, num_scales, H, W, 3); what it cannot tell is NaN."""
    constants = plugins.describe("measures", choice.name).constants
    limits = constants.get("LIMITS")
    try:
        values = read_values(choice, samples, plugins).astype(float)  # None becomes NaN
    except ValueError as error:
        raise RecipeError(
            f"proof.measure.name: {choice.name} gives labels, not numbers",
            "Labels go to proof.preserve; a measure has to rise or fall with the scale.",
        ) from error
    return Measurement(
        name=choice.name,
        values=values,
        unit=constants.get("UNIT", ""),
        limits=None if limits is None else (float(limits[0]), float(limits[1])),
    )


def read_values(choice: Choice, samples: np.ndarray, plugins: Plugins) -> np.ndarray:
    """Return what a measure says of each image, (num_samples, num_scales) of float, str or None."""
    read = _make_measure(choice, plugins)
    values = np.empty(samples.shape[:2], dtype=object)
    for index in np.ndindex(*values.shape):
        values[index] = read(samples[index])
    return values


def check_measures(recipe: Recipe, plugins: Plugins) -> None:
    """Make all measures of the recipe once, so that a wrong option is found before training.

    Raises:
        RecipeError: If an option's value cannot be used.
    """
    for choice in filter(None, (recipe.proof.measure, *recipe.proof.preserve)):
        _make_measure(choice, plugins)


def _make_measure(choice: Choice, plugins: Plugins) -> Measure:
    try:
        made: Measure = load_choice("measures", choice, plugins)()
    except ValueError as error:
        raise RecipeError(f"proof: {error}") from error
    return made
