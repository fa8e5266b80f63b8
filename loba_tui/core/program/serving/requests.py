"""Requests to a program: draw an adapter, measure it, plan a run, or measure its steps."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from loba_tui.core.associate.devices import accelerator_facts
from loba_tui.core.errors import RecipeError
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_files.load import attach_to_denoiser
from loba_tui.core.program.adapter_files.read.layers import AdapterFile
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_files.text_encoders import ScaledEmbeddings, TextAdapters
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale, RowScale
from loba_tui.core.program.combine.attach import Part
from loba_tui.core.program.data.open import cut_captions, open_data
from loba_tui.core.program.evaluation.attacks.attack import attack_erasure
from loba_tui.core.program.evaluation.proof import prove
from loba_tui.core.program.open_model import Embeddings, OpenModel, open_model, prompts_of
from loba_tui.core.program.planning.estimate import Estimator, device_of
from loba_tui.core.program.planning.preview import preview
from loba_tui.core.program.planning.remedies import Change, with_changes
from loba_tui.core.program.planning.requirements import by_engine, by_memory
from loba_tui.core.program.sampling.recipe_images import Grid, draw_grid, grid_png
from loba_tui.core.program.serving.bench_requests import serve_bench
from loba_tui.core.program.serving.combine_requests import (
    attach_several,
    check_measurable,
    parts_of,
    serve_interference,
    serve_merge,
    tell_of,
)
from loba_tui.core.program.serving.device_check import device_findings
from loba_tui.core.program.serving.export_requests import serve_export, serve_extract
from loba_tui.core.program.steering.components import Components
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import adapter_source
from loba_tui.core.run.launch import PLAN, Request
from loba_tui.core.run.writer import RunWriter


def serve(
    request: Request, writer: RunWriter, plugins: Plugins, *, tensors: Path | None = None
) -> None:
    """Carry out a request; results, events and status go to the writer's folder.

    Embeddings are kept between runs in the folder `tensors`; None keeps none.

    Raises:
        LobaError: The adapter, its recipe or its base model cannot be used.
    """
    if request.action == "doctor":
        findings = [finding.as_json() for finding in device_findings(accelerator_facts())]
        writer.event("examined", findings=findings)
    elif request.action == "merge":
        serve_merge(request, writer)
    elif request.action == "export":
        serve_export(request, writer)
    elif request.action == "extract":
        serve_extract(request, writer)
    elif request.action == "plan":
        recipe = wanted_recipe(request, plugins)
        if request.processes:
            sections = {"processes": by_engine(recipe, request.processes, plugins)}
        elif request.memory:
            estimator = Estimator(device_of(recipe)[0], plugins)
            sections = {"memory": by_memory(recipe, request.memory, estimator)}
        else:
            sections = preview(recipe, plugins)
        path = writer.write_file(PLAN, json.dumps(sections, allow_nan=False).encode())
        writer.event("planned", path=path)
    elif request.action == "bench":
        serve_bench(request, wanted_recipe(request, plugins), writer, plugins)
    elif request.action == "data":
        _check_data(wanted_recipe(request, plugins), writer, plugins)
    else:
        _serve_with_model(request, writer, plugins, tensors)


def _check_data(recipe: Recipe, writer: RunWriter, plugins: Plugins) -> None:
    data = open_data(recipe, writer, lambda phase: writer.status(phase=phase), plugins)
    if data is None:
        raise RecipeError("data: missing; this recipe has no images to check")
    found = {**data.summary(), "cut_captions": cut_captions(recipe, data)}
    writer.write_file(PLAN, json.dumps(found).encode())


def _serve_with_model(
    request: Request, writer: RunWriter, plugins: Plugins, tensors: Path | None
) -> None:
    recipe = wanted_recipe(request, plugins)
    # Before gigabytes of a model are: what is wrong with a file is said at once.
    parts = parts_of(request) or [Part(adapter_source(Path(request.adapter)), 1.0)]
    files = [read_adapter_file(part.source) for part in parts]
    tell_of(files, writer, unet_only=request.unet_only)
    if request.action == "interfere":
        check_measurable(files, unet_only=request.unet_only)
    model = open_model(
        recipe,
        prompts=prompts_of(recipe),
        plugins=plugins,
        on_phase=lambda phase: writer.status(phase=phase),
        on_fetch=lambda done, total: writer.status(fetched=done, to_fetch=total),
        tensors=tensors,
        on_problem=writer.warn,
    )
    if request.action == "interfere":
        serve_interference(request, recipe, model, files, writer=writer, plugins=plugins)
        return
    scale = _attach(request, model, parts, files)
    embeds = _embeds(request, model, parts, files)
    Components(model.wrapper.cache, recipe.base_model.id, model.container, writer).publish()
    if isinstance(embeds, ScaledEmbeddings):
        writer.warn(
            "the adapter changes text encoders too: prompts are encoded anew at each scale;"
            " --unet-only leaves that out"
        )
    if request.action == "eval":
        _measure(recipe, replace(model, embeds=embeds), scale, writer, plugins)
    else:
        writer.status(phase="sampling")
        file = _draw(recipe, replace(model, embeds=embeds), scale, writer, plugins)
        writer.event("sampled", path=str(file))


def _measure(
    recipe: Recipe, model: OpenModel, scale: RowScale, writer: RunWriter, plugins: Plugins
) -> None:
    def on_progress(done: int, total: int) -> None:
        writer.status(measured=done, to_measure=total)

    writer.status(phase="measuring" if recipe.proof.attacks is None else "attacking")
    attacks = attack_erasure(
        model.container, scale, recipe, model.embeds, on_progress, plugins=plugins
    )
    writer.status(phase="measuring")
    report = prove(
        model.container,
        scale,
        recipe,
        model.embeds,
        writer.run_dir,
        progress=on_progress,
        plugins=plugins,
        attacks=attacks,
    )
    writer.event("measured", outcome=report.outcome, verdict=list(report.verdict))


def _attach(
    request: Request, model: OpenModel, parts: Sequence[Part], files: Sequence[AdapterFile]
) -> RowScale:
    if request.unet_only and not any(file.denoiser_layers for file in files):
        raise RecipeError(f"{files[0].path} changes text encoders alone.", "Leave --unet-only out.")
    if request.several:
        return attach_several(model, parts, files)
    attach_to_denoiser(model.container, files[0])
    model.container.denoiser.requires_grad_(False)
    return AdapterScale(model.container.denoiser) if files[0].denoiser_layers else NoScale()


def _embeds(
    request: Request, model: OpenModel, parts: Sequence[Part], files: Sequence[AdapterFile]
) -> Embeddings:
    """Return embeddings that follow the scale where an adapter changes text encoders."""
    changing = [
        (file, part.strength)
        for part, file in zip(parts, files, strict=True)
        if file.text_encoder_layers
    ]
    if request.unet_only or not changing:
        return model.embeds
    return ScaledEmbeddings(model.embeds, TextAdapters(model.container, changing))


def wanted_recipe(request: Request, plugins: Plugins) -> Recipe:
    """Return the recipe that says how an adapter is used, with the request's own values put in.

    It is the text in the request: neither a run's folder nor an adapter's file is asked for one,
    as both can be a stranger's, and the program has nobody to ask.

    Raises:
        RecipeError: The request carries none, or it cannot be used.
    """
    if request.recipe is None:
        raise RecipeError("The request does not say by which recipe.", "Ask anew: loba sample")
    recipe = parse_text(request.recipe, origin="the request's recipe", plugins=plugins)
    changes: Change = {}
    if request.scales:
        changes["sample.scales"] = request.scales
    if request.prompts:
        changes["sample.prompts"] = changes["proof.prompts"] = request.prompts
    if request.seeds:
        changes["sample.seeds"] = changes["proof.seeds"] = request.seeds
    return with_changes(recipe, changes)


def _draw(
    recipe: Recipe, model: OpenModel, scale: RowScale, writer: RunWriter, plugins: Plugins
) -> OwnedFile:
    grid = Grid.of_samples(recipe)
    images = draw_grid(
        model.container,
        scale,
        recipe,
        model.embeds,
        grid,
        progress=lambda done, total: writer.status(measured=done, to_measure=total),
        plugins=plugins,
    )
    folder = writer.run_dir.samples
    for place in np.ndindex(*images.shape[:3]):
        prompt, seed, at = place
        name = f"{prompt:03d}-seed{grid.seeds[seed]}-scale{grid.scales[at]:+g}.png"
        pixels = (images[place] * 255).round().astype(np.uint8)
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="PNG")
        folder.file(name).replace(png.getvalue())
    file = folder.file("strip.png")
    file.replace(grid_png(images, grid))
    return file
