"""Reads figures and labels off images by the measures that a recipe names.

What a measure is called with, its file says by constants:

    BATCHED     all images at once, (num_samples, num_scales, H, W, 3); otherwise one, (H, W, 3)
    COMPARES    then what it is compared with as well: the index of scale 0, or that image
    MODEL       its factory takes `ImageModels`, and the recipe names a model: clip, dino or lpips
    KEPT_WITHIN how far from its value at scale 0 counts as unchanged in `proof.preserve`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from loba_tui.core.associate.image_models.files import find_files
from loba_tui.core.associate.image_models.models import ImageModels
from loba_tui.core.associate.sources.hub_snapshot import OnFetch
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.drop_ins import load_choice
from loba_tui.core.program.evaluation.slider_effect import Measurement
from loba_tui.core.recipe.measure_models import chosen_measures, measure_models
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice, Preserved

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class MeasureContext:
    """Scale 0 and device, which a measure may need beside images.

    Attributes:
        base: Index of scale 0, for measures that compare with it; None where it is not drawn.
        device: Where a measure that reads with a model has it.
    """

    base: int | None = None
    device: torch.device = _CPU


_ALONE = MeasureContext()


def measure(
    choice: Choice, samples: np.ndarray, plugins: Plugins, context: MeasureContext = _ALONE
) -> Measurement:
    """Apply a measure to images (num_samples, num_scales, H, W, 3); what it cannot tell is NaN."""
    constants = plugins.describe("measures", choice.name).constants
    limits = constants.get("LIMITS")
    try:
        # None becomes NaN.
        values = read_values(choice, samples, plugins, context).astype(float)
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


def read_values(
    choice: Choice, samples: np.ndarray, plugins: Plugins, context: MeasureContext = _ALONE
) -> np.ndarray:
    """Return what a measure says of each image, (num_samples, num_scales) of float, str or None.

    Raises:
        RecipeError: It compares with the image at scale 0, and there is none.
    """
    constants = plugins.describe("measures", choice.name).constants
    read = _make_measure(choice, plugins, context.device)
    compares, base = bool(constants.get("COMPARES")), context.base
    if compares and base is None:
        raise RecipeError(f"{choice.name} compares with the image at scale 0, which is not drawn")
    if constants.get("BATCHED"):
        found = np.asarray(read(samples, base) if compares else read(samples))
        if found.shape != samples.shape[:2]:
            raise RecipeError(f"{choice.name} gives {found.shape} values of {samples.shape[:2]}")
        return found.astype(object)
    values = np.empty(samples.shape[:2], dtype=object)
    for row, column in np.ndindex(*values.shape):
        others = (samples[row, base],) if compares else ()
        values[row, column] = read(samples[row, column], *others)
    return values


def kept_within(choice: Preserved, plugins: Plugins) -> float | None:
    """Return how far a preserved number may be from its value at scale 0; None is a tenth of it."""
    if choice.within is not None:
        return choice.within
    within = plugins.describe("measures", choice.name).constants.get("KEPT_WITHIN")
    return None if within is None else float(within)


def check_measures(recipe: Recipe, plugins: Plugins) -> None:
    """Make all measures of the recipe once, so that a wrong option is found before training.

    Raises:
        RecipeError: If an option's value cannot be used.
    """
    for _, choice in chosen_measures(recipe):
        _make_measure(choice, plugins, _CPU)


def fetch_models(recipe: Recipe, plugins: Plugins, on_fetch: OnFetch) -> None:
    """Have the files of all models that measures read with on this machine; none is loaded.

    Raises:
        LobaError: One cannot be had.
    """
    for model in measure_models(recipe, plugins):
        find_files(model, on_fetch)


def _make_measure(choice: Choice, plugins: Plugins, device: torch.device) -> Callable[..., Any]:
    try:
        made: Callable[..., Any] = load_choice("measures", choice, plugins)(ImageModels(device))
    except ValueError as error:
        raise RecipeError(f"proof: {error}") from error
    return made
