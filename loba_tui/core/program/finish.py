"""End of a run: the adapter is exported, measured, and exported anew.

It is written before it is measured, so that a failing measurement loses nothing, and once more
after that, so that the file itself carries the measured effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from loba_tui import __version__
from loba_tui.core import adapter_metadata as keys
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_files.file import WrittenFile
from loba_tui.core.program.adapter_files.outputs import AdapterOutput, DenoiserOutput
from loba_tui.core.program.adapter_layers.trained_text import trained_text
from loba_tui.core.program.closed_form.solved_text import SolvedText
from loba_tui.core.program.drop_ins import plugin_hashes
from loba_tui.core.program.evaluation.proof import prove
from loba_tui.core.program.open_model import OpenModel
from loba_tui.core.program.sampling.run_strips import StripDrawer, go_on_or_stop
from loba_tui.core.program.training.adapter_run import AdapterRun
from loba_tui.core.program.training.initial_adapter import described
from loba_tui.core.recipe.data_paths import portable, portable_model_id
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.changes import ChangeRecord


def provenance(
    recipe: Recipe,
    container: ModelContainer,
    step: int,
    changes: ChangeRecord,
    plugins: Plugins,
) -> dict[str, str]:
    """Return what an adapter file says about its origin, as safetensors metadata.

    No times or paths: the same recipe and seed give the same bytes.
    """
    changed = changes.until(step).text()
    hashes = plugin_hashes(recipe, plugins)
    legs = changes.legs(step)
    return {
        **({keys.STEERING_KEY: changed} if changed else {}),
        **({keys.PLUGINS_KEY: json.dumps(hashes, sort_keys=True)} if hashes else {}),
        **({keys.LEGS_KEY: json.dumps(legs)} if len(legs) > 1 else {}),
        keys.VERSION_KEY: __version__,
        keys.RECIPE_KEY: dump_recipe(portable(recipe)),
        keys.BASE_MODEL_KEY: portable_model_id(recipe.base_model.id),
        keys.BASE_REVISION_KEY: container.revision or "",
        keys.METHOD_KEY: recipe.method.name,
        keys.STEP_KEY: str(step),
        keys.SEED_KEY: str(recipe.train.seed),
    }


def _output(model: OpenModel, run: AdapterRun) -> AdapterOutput:
    if isinstance(model.text, SolvedText):
        return model.text
    text = trained_text(model.text)
    encoders = text.encoders if text is not None else {}
    return DenoiserOutput(model.container.denoiser, encoders, run.parameters)


def finish(recipe: Recipe, model: OpenModel, run: AdapterRun, strips: StripDrawer) -> None:
    """Write the adapter of a finished run, prove it, and note both in the run's events.

    Raises:
        Interrupted: The run was asked to stop meanwhile; what is written by then stays.
    """
    context = run.steering.context
    run_dir, records, plugins = context.run_dir, context.records, context.plugins
    changes = run.steering.settings.record
    metadata = provenance(recipe, model.container, run.step, changes, plugins)
    if model.data is not None:
        metadata[keys.DATA_KEY] = model.data.fingerprint
    if run.init_from is not None:
        metadata[keys.INIT_FROM_KEY] = described(run.init_from)
    if run.inexact:
        metadata[keys.INEXACT_KEY] = "; ".join(run.inexact)

    output = _output(model, run)
    written: dict[str, WrittenFile] = {}

    def write(effect: Mapping[str, str]) -> None:
        run.steering.disk.persist(
            lambda: written.update(output.write(run_dir.adapter_dir, {**metadata, **effect})),
            num_bytes=output.num_bytes,
            step=run.step,
            is_alone=True,
        )

    def on_progress(done: int, total: int) -> None:
        go_on_or_stop(context, run.step)
        records.status(measured=done, to_measure=total)

    write({})
    kohya = str(run_dir.adapter_kohya) if run_dir.adapter_kohya.is_there() else None
    notes = output.notes(written)
    records.event("exported", path=str(run_dir.adapter), kohya=kohya, notes=notes)
    records.status(phase="sampling")
    strips.draw(run.scale, run.step)
    if not recipe.proof.enabled:
        return
    records.status(phase="measuring")
    report = prove(
        model.container,
        run.scale,
        recipe,
        model.drawn_embeds,
        run_dir=run_dir,
        progress=on_progress,
        plugins=plugins,
        ended_early=run.ended_early,
    )
    write({f"{keys.EFFECT_PREFIX}{key}": value for key, value in report.summary().items()})
    records.event("measured", outcome=report.outcome, verdict=list(report.verdict))
