"""The part of a plan that says what the run will need, and whether that is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from loba_tui.core.associate.image_models.files import to_download
from loba_tui.core.associate.model_shapes import ModelShapes
from loba_tui.core.errors import ResourceError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.planning.automatic import Settled, settle
from loba_tui.core.program.planning.calibration import TIME_UNKNOWN, calibrate, can_calibrate
from loba_tui.core.program.planning.estimate import Estimator, device_of
from loba_tui.core.program.planning.estimate_records import Estimate
from loba_tui.core.program.planning.free_resources import FreeResources, free_resources
from loba_tui.core.program.planning.remedies import as_keys, memory_remedies, require_fit
from loba_tui.core.recipe.load import recipe_with
from loba_tui.core.recipe.measure_models import measure_models
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.units import show_size


def requirements(recipe: Recipe, shapes: ModelShapes, plugins: Plugins) -> dict[str, Any]:
    """Return parameters, memory, disk, work and time, and whether they fit here and now.

    The estimator has shapes of its own, in the dtype and with the adapter of the run.
    """
    device, is_here = device_of(recipe)
    estimator = Estimator(device, plugins)
    free = free_resources(device, Path.cwd(), is_here=is_here)
    settled = settle(recipe, estimator, free.memory_bytes)
    recipe = settled.recipe
    estimate = estimator.estimate(recipe)
    notes = []
    if can_calibrate(estimate, recipe, is_here=is_here):
        estimate = replace(estimate, work=calibrate(recipe, estimate, plugins))
    else:
        notes.append(TIME_UNKNOWN)
    if not is_here:
        notes.append(f"There is no {device} here, so its free memory is not known.")
    notes += download_notes(recipe, plugins)
    problem = None
    try:
        require_fit(estimator, recipe, estimate, free)
    except ResourceError as error:
        problem = str(error)
    return as_section(estimate, notes, free, problem, settled=settled)


def by_memory(recipe: Recipe, sizes: Sequence[int], estimator: Estimator) -> dict[str, Any]:
    """Return how a recipe would use a device with so many bytes free, for each of the sizes."""
    rows = []
    for size in sizes:
        settled = settle(recipe, estimator, size)
        estimate = estimator.estimate(settled.recipe)
        memory = estimate.memory
        row = {
            "free": size,
            "chosen": as_keys(settled.change),
            "needed": memory.needed,
            "worst_phase": memory.worst_phase,
            "remedy": "",
        }
        if memory.needed > size:
            found = memory_remedies(estimator, settled.recipe, estimate, limit=size)
            row["remedy"] = str(found[0]) if found else ""
        rows.append(row)
    return {"device": str(estimator.device), "rows": rows}


_ENGINES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("ddp", {}),
    ("fsdp2", {"engine": "fsdp2"}),
    ("ZeRO-1", {"engine": "deepspeed", "zero_stage": 1}),
    ("ZeRO-2", {"engine": "deepspeed", "zero_stage": 2}),
    ("ZeRO-3", {"engine": "deepspeed", "zero_stage": 3}),
)


def by_engine(recipe: Recipe, num_processes: int, plugins: Plugins) -> dict[str, Any]:
    """Return what one of so many processes would hold under each engine.

    What a recipe leaves to `auto` is settled for each of them.
    """
    device, is_here = device_of(recipe)
    estimator = Estimator(device, plugins, processes=num_processes)
    engines = [*_ENGINES, ("sequence", {"ulysses": num_processes})]
    free = free_resources(device, Path.cwd(), is_here=is_here).memory_bytes
    rows: list[dict[str, Any]] = []
    for name, parallel in engines:
        try:
            changed = recipe_with(recipe, "parallel", dict(parallel), plugins=plugins)
            settled = settle(changed, estimator, free)
            memory = estimator.estimate(settled.recipe).memory
        except ProblemsFound as error:
            rows.append({"engine": name, "refused": error.problems[0].message})
            continue
        rows.append({"engine": name, "refused": None, "memory": asdict(memory)})
    return {"device": str(device), "processes": num_processes, "rows": rows}


def download_notes(recipe: Recipe, plugins: Plugins) -> list[str]:
    """Return a sentence on each model that measures read with and that is still to be fetched."""
    found = (to_download(model) for model in measure_models(recipe, plugins))
    return [
        f"{each.model.key} reads with {each.model.id} at {str(each.model.revision)[:12]}, which is"
        " not on this machine: "
        + (f"about {show_size(each.num_bytes)}" if each.num_bytes else "it")
        + " is fetched from the hub before training."
        for each in found
        if each is not None
    ]


def as_section(
    estimate: Estimate,
    notes: Sequence[str],
    free: FreeResources,
    problem: str | None,
    *,
    settled: Settled,
) -> dict[str, Any]:
    """Return an estimate as a plan's section: `notes` are added to its own."""
    return {
        **estimate.as_json(),
        "notes": [*estimate.notes, *notes],
        "free_memory": free.memory_bytes,
        "free_disk": free.disk_bytes,
        "problem": problem,
        "chosen": str(settled) if settled.change else "",
    }
