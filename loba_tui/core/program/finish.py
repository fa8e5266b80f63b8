"""What happens once training is done: the adapter is exported, measured, and exported anew.

It is written before it is measured, so that a failing measurement loses nothing, and once more
after that, so that the file itself carries the measured effect.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from loba_tui import __version__
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import Interrupted, LobaError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_files.adapter import write_adapter
from loba_tui.core.program.adapter_files.lycoris import notes_of
from loba_tui.core.program.build import Built
from loba_tui.core.program.drop_ins import plugin_hashes
from loba_tui.core.program.evaluation.proof import prove
from loba_tui.core.program.open_model import OpenModel
from loba_tui.core.program.sampling.recipe_images import draw_strip
from loba_tui.core.program.steering.boundary import Steering
from loba_tui.core.recipe.data_paths import portable
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.changes import STEERING_KEY, ChangeRecord
from loba_tui.core.run.writer import RunWriter

logger = logging.getLogger(__name__)


def provenance(
    recipe: Recipe,
    container: ModelContainer,
    step: int,
    plugins: Plugins,
    steering: ChangeRecord | None = None,
) -> dict[str, str]:
    """Return what an adapter file says about its origin, as safetensors metadata.

    No times or paths: the same recipe and seed give the same bytes.
    """
    steered = steering.until(step).text() if steering is not None else ""
    hashes = plugin_hashes(recipe, plugins)
    return {
        **({STEERING_KEY: steered} if steered else {}),
        **({"loba.plugins": json.dumps(hashes, sort_keys=True)} if hashes else {}),
        "loba.version": __version__,
        "loba.recipe": dump_recipe(portable(recipe)),
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
    plugins: Plugins,
) -> None:
    """Write the adapter of a finished run, prove it, and note both in the run's events.

    Raises:
        Interrupted: The run was asked to stop meanwhile; what is written by then stays.
    """
    run_dir, trainer = writer.run_dir, built.trainer
    metadata = provenance(recipe, model.container, trainer.step, plugins, trainer.steering.record)
    if model.data is not None:
        metadata["loba.data"] = model.data.fingerprint
    if trainer.inexact:
        metadata["loba.inexact"] = "; ".join(trainer.inexact)

    def write(effect: Mapping[str, str]) -> None:
        num_bytes = 2 * sum(4 * parameter.numel() for parameter in trainer.parameters.values())
        trainer.steering.persist(
            lambda: write_adapter(
                model.container.denoiser, run_dir.adapter_dir, metadata={**metadata, **effect}
            ),
            num_bytes=num_bytes,
            step=trainer.step,
            is_alone=True,
        )

    def on_progress(done: int, total: int) -> None:
        _go_on_or_stop(trainer.steering, trainer.step)
        writer.status(measured=done, to_measure=total)

    write({})
    kohya = str(run_dir.adapter_kohya) if run_dir.adapter_kohya.exists() else None
    notes = notes_of(model.container.denoiser.peft_config["default"])
    writer.event("exported", path=str(run_dir.adapter), kohya=kohya, notes=notes)
    writer.status(phase="sampling")
    draw_sample(recipe, model, built, writer, trainer.step, plugins)
    if not recipe.proof.enabled:
        return
    writer.status(phase="measuring")
    report = prove(
        model.container,
        built.scale,
        recipe,
        model.embeds,
        out_dir=run_dir.path,
        progress=on_progress,
        plugins=plugins,
        ended_early=trainer.ended_early,
    )
    write({f"loba.effect.{key}": value for key, value in report.summary().items()})
    writer.event("measured", outcome=report.outcome, verdict=list(report.verdict))


def _go_on_or_stop(steering: Steering, step: int) -> None:
    if steering.is_to_stop():
        raise Interrupted(
            f"stopped after step {step} while images were drawn; the state is saved",
            "Go on with: loba run --resume RUN",
        )


def draw_sample(
    recipe: Recipe,
    model: OpenModel,
    built: Built,
    writer: RunWriter,
    step: int,
    plugins: Plugins,
) -> None:
    """Draw the strip of a step; a preview that fails is noted and never ends the run."""
    try:
        path = draw_strip(
            model.container,
            built.scale,
            recipe,
            model.embeds,
            path=writer.run_dir.sample_strip(step),
            progress=lambda done, total: _go_on_or_stop(built.trainer.steering, step),
            plugins=plugins,
        )
        writer.event("sampled", step=step, path=str(path))
    except Interrupted:
        raise
    # Torch raises out of memory as a RuntimeError; the VAE may have to be loaded again, and fail.
    except (RuntimeError, OSError, LobaError) as error:
        logger.exception("the strip of step %d failed", step)
        writer.event("sample_failed", step=step, message=str(error))
