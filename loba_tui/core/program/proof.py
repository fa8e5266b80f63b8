"""Proves a finished adapter: draws it at all scales, measures the images, writes the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from loba_tui.core import plugins
from loba_tui.core.associate.containers.base import ModelContainer, PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugin_sources import SHIPPED, PluginSources
from loba_tui.core.program.adapter_scale import RowScale
from loba_tui.core.program.choices import load_choice
from loba_tui.core.program.effect import Measurement
from loba_tui.core.program.efficacy import Efficacy, HeldOut, Yardstick, roll_out
from loba_tui.core.program.erasure import JUDGED_SCALE, Erasure, measure_erasure
from loba_tui.core.program.erasure_efficacy import ErasureEfficacy, erasure_efficacy
from loba_tui.core.program.region import Region, measure_region
from loba_tui.core.program.report import Report, make_report
from loba_tui.core.program.report_plot import draw_report
from loba_tui.core.program.sampling import Progress, sample_scales
from loba_tui.core.program.strip import save_strip, strip
from loba_tui.core.recipe.schema import Choice, Concept, Recipe
from loba_tui.core.run import durable

Embeddings = Mapping[str, PromptEmbeds]
"""One row for each prompt, by the prompt's text."""

Measure = Callable[[np.ndarray], float | str | None]
"""Reads a value or a label off an image (H, W, 3) in [0, 1]; None where it cannot be told."""

PROOF_STRIP = "samples/proof.png"
REPORT_JSON = "adapter/report.json"
REPORT_PNG = "adapter/report.png"

MAX_STRIP_PROMPTS = 12
MAX_EFFICACY_CONCEPTS = 8


def prove(
    container: ModelContainer,
    scale: RowScale,
    recipe: Recipe,
    embeds: Embeddings,
    out_dir: Path,
    progress: Progress | None = None,
    sources: PluginSources = SHIPPED,
    ended_early: str | None = None,
) -> Report:
    """Measure what the attached adapter does, and write strip, report.json and report.png.

    Args:
        container: The model, with the adapter attached.
        scale: Strength of that adapter.
        recipe: Says which prompts, seeds and scales, what to measure and what to preserve. Scale 0
            is always drawn too, since everything is compared with it.
        embeds: Of the proof's prompts, the negative prompt, and all prompts of the concepts.
        out_dir: The run directory, or any folder.
        progress: Told how many images are drawn, of how many.
        sources: Where the user's own drop-ins lie.
        ended_early: Why training ended itself, to be said in the report.
    """
    prompts, seeds = (*recipe.proof_prompts, *recipe.other_prompts), recipe.proof.seeds
    scales = proof_scales(recipe)
    images = sample_scales(
        container,
        scale,
        _rows(embeds, prompts),
        scales=scales,
        seeds=seeds,
        settings=recipe.sample,
        negative=_negative(recipe, embeds),
        resolution=recipe.train.resolution,
        progress=progress,
        sources=sources,
    )
    figures = measure_efficacy(container, scale, recipe, embeds, sources)
    samples = images.reshape(-1, *images.shape[2:])
    erasure = _erasure(recipe, scales, samples, sources)
    measured = None
    if recipe.proof.measure is not None and erasure is None:
        measured = measure(recipe.proof.measure, samples, sources)
    # What an eraser makes of its own concept may look like anything; the others may not.
    judged = samples[-erasure.num_others :] if erasure and erasure.num_others else samples
    report = make_report(
        recipe.name,
        scales,
        judged,
        measured=measured,
        labels={
            _label(choice): read_values(choice, judged, sources) for choice in recipe.proof.preserve
        },
        efficacy=figures,
        region=_region(recipe, scales, samples),
        erasure=erasure,
        details=_details(container, recipe, num_images=images[..., 0, 0, 0].size),
    )
    if ended_early:
        report = replace(report, verdict=(*report.verdict, ended_early))
    for name in (PROOF_STRIP, REPORT_JSON, REPORT_PNG):
        (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
    shown = _spread(range(len(prompts)), MAX_STRIP_PROMPTS)
    sheet = strip(images[shown], scales=scales, prompts=[prompts[i] for i in shown], seeds=seeds)
    with durable.staged(out_dir / PROOF_STRIP) as path:
        save_strip(sheet, path)
    with durable.staged(out_dir / REPORT_PNG) as path:
        draw_report(report, samples, path, measured=measured)
    durable.replace_file(out_dir / REPORT_JSON, report.to_json().encode())
    return report


def _region(recipe: Recipe, scales: Sequence[float], samples: np.ndarray) -> Region | None:
    if recipe.proof.region is None:
        return None
    try:
        return measure_region(recipe.proof.region, scales, samples)
    except ValueError as error:
        raise RecipeError(f"proof.region: {error}") from error


def proof_scales(recipe: Recipe) -> tuple[float, ...]:
    """Return the scales of the proof: 0 is compared with, and an eraser is for use at 1."""
    needed = {0.0} if recipe.proof.erased is None else {0.0, JUDGED_SCALE}
    return tuple(sorted({float(scale) for scale in recipe.sample.scales} | needed))


def _erasure(
    recipe: Recipe, scales: Sequence[float], samples: np.ndarray, sources: PluginSources
) -> Erasure | None:
    """Count the labels of an eraser's proof; None for every other method.

    Args:
        recipe: Says which label is to be gone, and which prompts ask for others.
        scales: (num_scales).
        samples: (num_samples, num_scales, H, W, 3), those of `other_prompts` last.
        sources: Where the user's own drop-ins lie.
    """
    proof = recipe.proof
    if proof.erased is None or proof.measure is None:
        return None
    labels = read_values(proof.measure, samples, sources)
    start = len(recipe.proof_prompts) * len(proof.seeds)
    asking, others = labels[:start], {}
    for label, prompts in proof.others.items():
        end = start + len(prompts) * len(proof.seeds)
        others[label] = labels[start:end]
        start = end
    return measure_erasure(scales, asking, others, measure=proof.measure.name, label=proof.erased)


def draw_strip(
    container: ModelContainer,
    scale: RowScale,
    recipe: Recipe,
    embeds: Embeddings,
    *,
    path: Path,
    progress: Progress | None = None,
    sources: PluginSources = SHIPPED,
) -> Path:
    """Draw the recipe's sample prompts and seeds at its scales as one picture; return its path."""
    prompts, settings = recipe.sample_prompts, recipe.sample
    images = sample_scales(
        container,
        scale,
        _rows(embeds, prompts),
        scales=settings.scales,
        seeds=settings.seeds,
        settings=settings,
        negative=_negative(recipe, embeds),
        resolution=recipe.train.resolution,
        progress=progress,
        sources=sources,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = strip(images, scales=settings.scales, prompts=prompts, seeds=settings.seeds)
    with durable.staged(path) as temporary:
        save_strip(sheet, temporary)
    return path


def measure(choice: Choice, samples: np.ndarray, sources: PluginSources = SHIPPED) -> Measurement:
    """Apply a measure to images (num_samples, num_scales, H, W, 3); what it cannot tell is NaN."""
    constants = plugins.describe("measures", choice.name, sources=sources).constants
    limits = constants.get("LIMITS")
    try:
        values = read_values(choice, samples, sources).astype(float)  # None becomes NaN
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
    choice: Choice, samples: np.ndarray, sources: PluginSources = SHIPPED
) -> np.ndarray:
    """Return what a measure says of each image, (num_samples, num_scales) of float, str or None."""
    read = _make_measure(choice, sources)
    values = np.empty(samples.shape[:2], dtype=object)
    for index in np.ndindex(*values.shape):
        values[index] = read(samples[index])
    return values


def check_measures(recipe: Recipe, sources: PluginSources = SHIPPED) -> None:
    """Make all measures of the recipe once, so that a wrong option is found before training.

    Raises:
        RecipeError: If an option's value cannot be used.
    """
    for choice in filter(None, (recipe.proof.measure, *recipe.proof.preserve)):
        _make_measure(choice, sources)


def _make_measure(choice: Choice, sources: PluginSources) -> Measure:
    try:
        made: Measure = load_choice("measures", choice, sources)()
    except ValueError as error:
        raise RecipeError(f"proof: {error}") from error
    return made


def make_yardstick(
    container: ModelContainer,
    scale: RowScale,
    recipe: Recipe,
    embeds: Embeddings,
    *,
    most: int = MAX_EFFICACY_CONCEPTS,
) -> Yardstick | None:
    """Return what model-free figures are read off, None where no concept says both directions.

    Args:
        container: The model, with the adapter attached.
        scale: Strength of that adapter.
        recipe: Names the concepts.
        embeds: Of all prompts of the concepts.
        most: Concepts and preserve prompts that are looked at, evenly spread over all of them.
    """
    pairs = [c for c in recipe.method.expanded_concepts() if c.positive and c.negative]
    if not pairs:
        return None
    concepts: Sequence[Concept] = _spread(pairs, most)
    preserve = _spread(list(dict.fromkeys(p for c in pairs for p in c.preserve)), most)
    target = _rows(embeds, [concept.target for concept in concepts])
    return Yardstick(
        container,
        scale,
        _held_out(container, scale, recipe, target),
        target=target,
        positive=_rows(embeds, [concept.positive or "" for concept in concepts]),
        negative=_rows(embeds, [concept.negative or "" for concept in concepts]),
        preserve=_rows(embeds, preserve) if preserve else None,
    )


def measure_efficacy(
    container: ModelContainer,
    scale: RowScale,
    recipe: Recipe,
    embeds: Embeddings,
    sources: PluginSources = SHIPPED,
) -> Efficacy | ErasureEfficacy | None:
    """Return the model-free figures of an eraser or of a slider.

    None for a slider where no concept says positive and negative.
    """
    constants = plugins.describe("methods", recipe.method.name, sources=sources).constants
    if constants.get("ERASES"):
        return _measure_erasure_efficacy(container, scale, recipe, embeds)
    yardstick = make_yardstick(container, scale, recipe, embeds)
    return None if yardstick is None else yardstick.measure()


def _measure_erasure_efficacy(
    container: ModelContainer, scale: RowScale, recipe: Recipe, embeds: Embeddings
) -> ErasureEfficacy:
    concepts = _spread(recipe.method.expanded_concepts(), MAX_EFFICACY_CONCEPTS)
    kept = dict.fromkeys(p for c in recipe.method.expanded_concepts() for p in c.preserve)
    preserve = _spread(list(kept), MAX_EFFICACY_CONCEPTS)
    target = _rows(embeds, [concept.target for concept in concepts])
    goals = [
        container.empty_embeds() if concept.neutral is None else embeds[concept.neutral]
        for concept in concepts
    ]
    return erasure_efficacy(
        container,
        scale,
        _held_out(container, scale, recipe, target),
        target=target,
        goal=PromptEmbeds.cat(goals),
        preserve=_rows(embeds, preserve) if preserve else None,
    )


def _held_out(
    container: ModelContainer, scale: RowScale, recipe: Recipe, target: PromptEmbeds
) -> HeldOut:
    """Return noisy latents of the base's own rollouts, of a seed that is not trained with."""
    ddim = plugins.load("noise", "ddim")
    return roll_out(
        container,
        scale,
        target,
        make_scheduler=lambda: ddim(container.scheduler_config),
        seed=recipe.proof.seeds[0],
        resolution=recipe.train.resolution,
    )


def _label(choice: Choice) -> str:
    """Return a preserved label's name, with its options: one measure may be used twice."""
    options = ", ".join(f"{name}={value}" for name, value in choice.options.items())
    return f"{choice.name} ({options})" if options else choice.name


def _rows(embeds: Embeddings, prompts: Sequence[str]) -> PromptEmbeds:
    return PromptEmbeds.cat([embeds[prompt] for prompt in prompts])


def _negative(recipe: Recipe, embeds: Embeddings) -> PromptEmbeds | None:
    """Return the negative prompt's row; "" means the model's own unconditional embeddings."""
    prompt = recipe.sample.negative_prompt
    return embeds[prompt] if prompt else None


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most this many items, evenly spread, in their order."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _details(container: ModelContainer, recipe: Recipe, *, num_images: int) -> dict[str, Any]:
    """Return how it was measured, enough to do it again."""
    settings = recipe.sample
    halves = 2 if settings.guidance_scale > 1 else 1
    return {
        "base_model": recipe.base_model.id,
        "base_model_revision": container.revision,
        "prompts": [*recipe.proof_prompts, *recipe.other_prompts],
        "negative_prompt": settings.negative_prompt,
        "seeds": list(recipe.proof.seeds),
        "sampler": settings.noise.name,
        "sampling_steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
        "resolution_pixels": recipe.train.resolution or container.resolution,
        "num_images": num_images,
        "num_unet_rows_of_images": num_images * settings.steps * halves,
    }
