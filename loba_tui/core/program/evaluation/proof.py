"""Proves a finished adapter: draws it at all scales, measures the images, writes the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.evaluation.attacks.outcome import Attacks
from loba_tui.core.program.evaluation.calibration.calibrate import Calibration
from loba_tui.core.program.evaluation.costs.concept_costs import ConceptCosts
from loba_tui.core.program.evaluation.efficacy.eraser import EraserEfficacy
from loba_tui.core.program.evaluation.efficacy.recipe import measure_efficacy
from loba_tui.core.program.evaluation.efficacy.slider import SliderEfficacy
from loba_tui.core.program.evaluation.eraser_effect import JUDGED_SCALE, Erasure, measure_erasure
from loba_tui.core.program.evaluation.figures import Figures, measure_figures
from loba_tui.core.program.evaluation.measure import (
    MeasureContext,
    kept_within,
    measure,
    read_values,
)
from loba_tui.core.program.evaluation.region import Region, measure_region
from loba_tui.core.program.evaluation.report import Report, make_report
from loba_tui.core.program.evaluation.report_plot import report_png
from loba_tui.core.program.evaluation.slider_effect import Measurement, base_index
from loba_tui.core.program.open_model import Embeddings
from loba_tui.core.program.sampling.images import Progress
from loba_tui.core.program.sampling.recipe_images import DrawnGrid, Grid, draw_grid, grid_png
from loba_tui.core.program.sampling.strip import strip, strip_png
from loba_tui.core.program.spread import spread
from loba_tui.core.recipe.measure_models import measure_models
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice, Preserved
from loba_tui.core.run.directory import RunDir

PROOF_STRIP = "proof.png"
ATTACK_STRIP = "attacks.png"

MAX_STRIP_PROMPTS = 12


def prove(
    container: ModelContainer,
    scale: RowScale,
    recipe: Recipe,
    embeds: Embeddings,
    run_dir: RunDir,
    progress: Progress | None = None,
    *,
    plugins: Plugins,
    remark: str | None = None,
    calibration: Calibration | None = None,
    attacks: Attacks | None = None,
    costs: ConceptCosts | None = None,
    drawn: DrawnGrid | None = None,
) -> Report:
    """Measure what the attached adapter does, and write strip, report.json and report.png.

    Scale 0 is always drawn too, since everything is compared with it.

    Args:
        embeds: Of the proof's prompts, the negative prompt, and all prompts of the concepts.
        progress: Told how many images are drawn, of how many.
        remark: Of how training ended and which step it is of, to be said in the report.
        calibration: What the adapter was calibrated to, to be held against these prompts.
        attacks: What was tried to bring an erased concept back; its pictures are written too.
        costs: What an edit does to its concepts and to other prompts.
        drawn: What `draw_proof` has drawn; None draws it here.
    """
    if drawn is None:
        drawn = draw_proof(container, scale, recipe, embeds, progress, plugins=plugins)
    grid, images = drawn.grid, drawn.images
    efficacy = measure_efficacy(container, scale, recipe, embeds, plugins)
    samples = images.reshape(-1, *images.shape[2:])
    figures, measured = _measure(recipe, grid, samples, efficacy, plugins, container.device)
    if attacks is not None:
        figures = replace(figures, attacks=attacks.results)
        if attacks.examples:
            run_dir.samples.file(ATTACK_STRIP).replace(examples_png(attacks))
    details = _details(container, recipe, grid, plugins)
    report = make_report(
        recipe.name,
        figures,
        details=details,
        calibration=calibration,
        costs=costs,
        remark=remark,
    )
    shown = spread(range(len(grid.prompts)), MAX_STRIP_PROMPTS)
    few = replace(grid, prompts=[grid.prompts[i] for i in shown])
    run_dir.samples.file(PROOF_STRIP).replace(grid_png(images[shown], few))
    run_dir.report_picture.replace(report_png(report, samples, measured=measured))
    run_dir.report.replace(report.to_json().encode(), sync=True)
    return report


def draw_proof(
    container: ModelContainer,
    scale: RowScale,
    recipe: Recipe,
    embeds: Embeddings,
    progress: Progress | None = None,
    *,
    plugins: Plugins,
) -> DrawnGrid:
    """Return the images that a proof measures."""
    grid = proof_grid(recipe)
    return DrawnGrid(
        grid,
        draw_grid(container, scale, recipe, embeds, grid, progress=progress, plugins=plugins),
    )


def examples_png(attacks: Attacks) -> bytes:
    """Return pictures of attacks as one strip, a PNG: the base model's, and the erased one's."""
    images = np.stack(list(attacks.examples.values()))[:, None]
    shown = strip(images, scales=(0.0, JUDGED_SCALE), prompts=list(attacks.examples), seeds=(None,))
    return strip_png(shown)


def proof_grid(recipe: Recipe) -> Grid:
    """Return what the proof draws.

    Scale 0 is compared with, an eraser is for use at 1, and a calibrated scale is looked at.
    """
    needed = {0.0} if recipe.proof.erased is None else {0.0, JUDGED_SCALE}
    if recipe.proof.calibrate is not None:
        needed |= {-recipe.proof.calibrate.at, recipe.proof.calibrate.at}
    scales = sorted({float(scale) for scale in recipe.sample.scales} | needed)
    return Grid((*recipe.proof_prompts, *recipe.other_prompts), recipe.proof.seeds, scales)


def _measure(
    recipe: Recipe,
    grid: Grid,
    samples: np.ndarray,
    efficacy: SliderEfficacy | EraserEfficacy | None,
    plugins: Plugins,
    device: torch.device,
) -> tuple[Figures, Measurement | None]:
    """Return the figures of the samples, and the attribute that a slider moves, if measured."""
    proof, scales = recipe.proof, grid.scales
    context = MeasureContext(base_index(scales), device)
    erasure = _erasure(recipe, scales, samples, plugins, context)
    measured = None
    if proof.measure is not None and erasure is None:
        measured = measure(proof.measure, samples, plugins, context)
    # What an eraser makes of its own concept may look like anything; the others may not.
    judged = samples[-erasure.num_others :] if erasure and erasure.num_others else samples
    kept = _labelled(proof.preserve)
    figures = measure_figures(
        scales,
        judged,
        measured=measured,
        labels={
            label: read_values(choice, judged, plugins, context) for label, choice in kept.items()
        },
        within={label: kept_within(choice, plugins) for label, choice in kept.items()},
        efficacy=efficacy,
        region=_region(recipe, scales, samples),
        erasure=erasure,
    )
    return figures, measured


def _region(recipe: Recipe, scales: Sequence[float], samples: np.ndarray) -> Region | None:
    if recipe.proof.region is None:
        return None
    try:
        return measure_region(recipe.proof.region, scales, samples)
    except ValueError as error:
        raise RecipeError(f"proof.region: {error}") from error


def _erasure(
    recipe: Recipe,
    scales: Sequence[float],
    samples: np.ndarray,
    plugins: Plugins,
    context: MeasureContext,
) -> Erasure | None:
    """Count the labels of an eraser's proof, samples of `other_prompts` last; else None."""
    proof = recipe.proof
    if proof.erased is None or proof.measure is None:
        return None
    labels = read_values(proof.measure, samples, plugins, context)
    start = len(recipe.proof_prompts) * len(proof.seeds)
    asking, others = labels[:start], {}
    for label, prompts in proof.others.items():
        end = start + len(prompts) * len(proof.seeds)
        others[label] = labels[start:end]
        start = end
    return measure_erasure(scales, asking, others, measure=proof.measure.name, label=proof.erased)


def _labelled(preserve: Sequence[Preserved]) -> dict[str, Preserved]:
    """Return what is preserved by name, with options where one measure is used twice.

    A model's id and commit are told only where nothing else differs.
    """
    short = {_label(choice, leave_out=("model", "revision")): choice for choice in preserve}
    return short if len(short) == len(preserve) else {_label(each): each for each in preserve}


def _label(choice: Choice, leave_out: Sequence[str] = ()) -> str:
    told = {name: value for name, value in choice.options.items() if name not in leave_out}
    options = ", ".join(f"{name}={value}" for name, value in told.items())
    return f"{choice.name} ({options})" if options else choice.name


def _details(
    container: ModelContainer, recipe: Recipe, grid: Grid, plugins: Plugins
) -> dict[str, Any]:
    """Return how it was measured, enough to do it again."""
    settings = recipe.sample
    num_images = len(grid.prompts) * len(grid.seeds) * len(grid.scales)
    read_with = [
        f"{each.id}@{each.revision}" if each.revision else each.id
        for each in measure_models(recipe, plugins)
    ]
    return {
        **({"image_models": read_with} if read_with else {}),
        "base_model": recipe.base_model.id,
        "base_model_revision": container.revision,
        "prompts": list(grid.prompts),
        "negative_prompt": settings.negative_prompt,
        "seeds": list(grid.seeds),
        "sampler": settings.noise.name,
        "sampling_steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
        "resolution_pixels": recipe.train.resolution or container.resolution,
        "num_images": num_images,
        "num_unet_rows_of_images": num_images * settings.steps * settings.rows_per_image,
    }
