"""What happens once training is done: the adapter is exported, measured, and exported anew.

It is written before it is measured, so that a failing measurement loses nothing, and once more
after that, so that the file itself carries the measured effect.
"""

from __future__ import annotations

import logging

from loba_tui import __version__
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.plugin_sources import SHIPPED, PluginSources
from loba_tui.core.program.build import Built, OpenModel
from loba_tui.core.program.export import write_adapter
from loba_tui.core.program.proof import draw_strip, prove
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.writer import RunWriter

logger = logging.getLogger(__name__)


def provenance(recipe: Recipe, container: ModelContainer, step: int) -> dict[str, str]:
    """Return what an adapter file says about its origin, as safetensors metadata.

    No times or paths: the same recipe and seed give the same bytes.
    """
    return {
        "loba.version": __version__,
        "loba.recipe": dump_recipe(recipe),
        "loba.base_model": recipe.base_model.id,
        "loba.base_model_revision": container.revision or "",
        "loba.method": recipe.method.name,
        "loba.step": str(step),
        "loba.seed": str(recipe.train.seed),
    }


def finish(
    recipe: Recipe,
    model: OpenModel,
    built: Built,
    writer: RunWriter,
    sources: PluginSources = SHIPPED,
) -> None:
    """Write the adapter of a finished run, prove it, and note both in the run's events."""
    run_dir = writer.run_dir
    metadata = provenance(recipe, model.container, built.trainer.step)
    write_adapter(model.container.denoiser, run_dir.adapter_dir, metadata=metadata)
    writer.event("exported", path=str(run_dir.adapter), kohya=str(run_dir.adapter_kohya))
    writer.status(phase="sampling")
    draw_sample(recipe, model, built, writer, built.trainer.step, sources)
    if not recipe.proof.enabled:
        return
    writer.status(phase="measuring")
    report = prove(
        model.container,
        built.scale,
        recipe,
        model.embeds,
        out_dir=run_dir.path,
        progress=lambda done, total: writer.status(measured=done, to_measure=total),
        sources=sources,
    )
    summary = {f"loba.effect.{key}": value for key, value in report.summary().items()}
    write_adapter(model.container.denoiser, run_dir.adapter_dir, metadata={**metadata, **summary})
    writer.event("measured", outcome=report.outcome, verdict=list(report.verdict))


def draw_sample(
    recipe: Recipe,
    model: OpenModel,
    built: Built,
    writer: RunWriter,
    step: int,
    sources: PluginSources = SHIPPED,
) -> None:
    """Draw the strip of a step; a preview that fails is noted and never ends the run."""
    try:
        path = draw_strip(
            model.container,
            built.scale,
            recipe,
            model.embeds,
            path=writer.run_dir.sample_strip(step),
            sources=sources,
        )
        writer.event("sampled", step=step, path=str(path))
    except (RuntimeError, OSError) as error:  # torch raises out of memory as a RuntimeError
        logger.exception("the strip of step %d failed", step)
        writer.event("sample_failed", step=step, message=str(error))
