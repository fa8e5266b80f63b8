"""Requests about several adapters: draw, merge, or compare them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from loba_tui.core.adapter_metadata import BASE_MODEL_KEY
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_files.read.layers import AdapterFile
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale, RowScale
from loba_tui.core.program.combine.attach import Part, SeveralScales, attach
from loba_tui.core.program.combine.interference import (
    Attribute,
    Interference,
    measure_overlap,
    measured_attribute,
)
from loba_tui.core.program.combine.interference_plot import interference_png
from loba_tui.core.program.combine.merge import merge, write_merged
from loba_tui.core.program.evaluation.efficacy.recipe import roll_out_held
from loba_tui.core.program.evaluation.measure import read_values
from loba_tui.core.program.open_model import OpenModel, batch_of
from loba_tui.core.program.sampling.recipe_images import Grid, draw_grid
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.recipe.measure_models import model_of
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice
from loba_tui.core.run.directory import adapter_source
from loba_tui.core.run.launch import Request
from loba_tui.core.run.writer import RunWriter
from loba_tui.core.text import counted

INTERFERENCE_JSON = "interference.json"
INTERFERENCE_PNG = "interference.png"
_MOST_PROMPTS = 8
_MOST_HELD_OUT = 4


def parts_of(request: Request) -> list[Part]:
    """Return the adapters that a request names."""
    return [Part(adapter_source(Path(path)), strength) for path, strength in request.several]


def attach_several(
    model: OpenModel, parts: Sequence[Part], files: Sequence[AdapterFile]
) -> RowScale:
    """Put adapters that were read on a model; their own strengths are at scale 1."""
    names = attach(model.container, parts, files)
    denoiser = model.container.denoiser
    scales = [
        AdapterScale(denoiser, name) if file.denoiser_layers else NoScale()
        for name, file in zip(names, files, strict=True)
    ]
    return SeveralScales(scales, [part.strength for part in parts])


def serve_merge(request: Request, writer: RunWriter) -> None:
    """Write one file that does what several do together, and say what was lost."""
    parts = parts_of(request)
    writer.status(phase="merging")
    files = [read_adapter_file(part.source) for part in parts]
    tell_of(files, writer, unet_only=request.unet_only)
    merged = merge(parts, rank=request.rank, unet_only=request.unet_only)
    written = write_merged(merged, parts, Path(request.file), file_format=request.file_format)
    ranks = [layer.rank for layer in merged.layers.values()]
    models = {file.metadata.get(BASE_MODEL_KEY, "") for file in files} - {""}
    if len(models) > 1:
        writer.warn(f"they were trained on different base models: {', '.join(sorted(models))}")
    writer.event(
        "merged",
        path=str(written.path),
        sha256=written.sha256,
        num_bytes=written.num_bytes,
        num_layers=len(ranks),
        largest_rank=max(ranks),
        error=merged.error,
        worst_error=merged.worst_error,
        worst_layer=merged.worst_layer,
    )


def tell_of(files: Sequence[AdapterFile], writer: RunWriter, *, unet_only: bool) -> None:
    """Warn of what a user has to know of adapter files, and of what is left out of them."""
    for file in files:
        for note in file.notes():
            writer.warn(note)
        if unet_only and file.text_encoder_layers:
            writer.warn(
                f"{file.path.name}: --unet-only leaves out what it has for text encoders,"
                f" {counted(file.text_encoder_layers, 'layer')}"
            )


def check_measurable(files: Sequence[AdapterFile], *, unet_only: bool) -> None:
    """Raise `RecipeError` where the interference of a file could be measured in part only."""
    for file in files:
        if not file.denoiser_layers:
            raise RecipeError(
                f"{file.path} changes text encoders alone, and interference is that of denoisers.",
                "See what it does with: loba sample",
            )
        if file.text_encoder_layers and not unet_only:
            raise RecipeError(
                f"{file.path} also changes {counted(file.text_encoder_layers, 'layer')} of text"
                " encoders,"
                " whose interference is not measured.",
                "To measure what it has for the UNet alone, add --unet-only.",
            )


def serve_interference(
    request: Request,
    recipe: Recipe,
    model: OpenModel,
    files: Sequence[AdapterFile],
    *,
    writer: RunWriter,
    plugins: Plugins,
) -> Interference:
    """Write interference.json and interference.png to the request's folder.

    Args:
        files: Those that the request names, checked to be measurable.
    """
    parts = parts_of(request)
    container, labels = model.container, _labels(parts)
    strengths = [part.strength for part in parts]
    names = attach(container, parts, files)
    writer.status(phase="measuring")
    scales = [AdapterScale(container.denoiser, name) for name in names]
    several = SeveralScales(scales, strengths)
    prompts = list(recipe.proof_prompts)
    few = batch_of(model.embeds, prompts[:_MOST_HELD_OUT])
    held_out = roll_out_held(container, several, recipe, few)
    for scale in scales:
        scale.remove()
    found = measure_overlap(container, names, strengths, labels, held_out, few)
    scales = [AdapterScale(container.denoiser, name) for name in names]
    shown = prompts[:_MOST_PROMPTS]
    images = _draw(recipe, model, scales, strengths, shown, writer, plugins)
    found = replace(
        found,
        attributes=tuple(_attributes(request.recipes, labels, images, plugins)),
        details={"prompts": shown, "seed": recipe.proof.seeds[0]},
    )
    content = json.dumps(asdict(found), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    path = writer.write_file(INTERFERENCE_JSON, content.encode(), sync=True)
    picture = writer.write_file(INTERFERENCE_PNG, interference_png(found, images, shown))
    writer.event(
        "interfered",
        path=path,
        picture=picture,
        sentences=found.sentences(),
    )
    return found


def _labels(parts: Sequence[Part]) -> list[str]:
    names = [part.label for part in parts]
    return [
        name if names.count(name) == 1 else f"{name} ({number})"
        for number, name in enumerate(names, start=1)
    ]


def _draw(
    recipe: Recipe,
    model: OpenModel,
    scales: Sequence[AdapterScale],
    strengths: Sequence[float],
    prompts: Sequence[str],
    writer: RunWriter,
    plugins: Plugins,
) -> np.ndarray:
    """Return images (num_prompts, 2 + num_adapters, H, W, 3): none, each alone, all."""
    num = len(strengths)
    alone = [[s if i == j else 0.0 for j, s in enumerate(strengths)] for i in range(num)]
    grid = Grid(prompts, recipe.proof.seeds[:1], (1.0,))
    columns = []
    for done, combination in enumerate([[0.0] * num, *alone, list(strengths)]):
        writer.status(measured=done, to_measure=num + 2)
        scale = SeveralScales(scales, combination)
        images = draw_grid(model.container, scale, recipe, model.embeds, grid, plugins=plugins)
        columns.append(images[:, 0, 0])
    return np.stack(columns, axis=1)


def _attributes(
    recipes: Sequence[str], labels: Sequence[str], images: np.ndarray, plugins: Plugins
) -> list[Attribute]:
    found = []
    for number, text in enumerate(recipes):
        choice = _measure_of(text, plugins)
        # Another adapter's recipe is not asked about here, so no model that it names is fetched.
        if choice is None or model_of(choice, plugins) is not None:
            continue
        values = read_values(choice, images, plugins).astype(float)
        # Only samples that the measure can read everywhere compare like with like.
        whole = values[np.isfinite(values).all(axis=1)]
        if len(whole):
            means = whole.mean(axis=0).tolist()
            found.append(measured_attribute(choice.name, number, labels, means))
    return found


def _measure_of(text: str, plugins: Plugins) -> Choice | None:
    if not text:
        return None
    return parse_text(text, origin="the request's recipe", plugins=plugins).proof.measure
