"""End of a run: the adapter is exported, calibrated if asked, measured, and exported anew.

It is written before it is measured, so that a failing measurement loses nothing, and once more
after that, so that the file itself carries the measured effect.
"""

from __future__ import annotations

from collections.abc import Mapping

from loba_tui.core import adapter_metadata as keys
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_files.file import WrittenFile
from loba_tui.core.program.adapter_files.outputs import AdapterOutput, DenoiserOutput
from loba_tui.core.program.adapter_files.provenance import provenance, quantized_by
from loba_tui.core.program.adapter_layers.factor import check_linear
from loba_tui.core.program.adapter_layers.trained_text import trained_text
from loba_tui.core.program.closed_form.solved_run import SolvedRun
from loba_tui.core.program.closed_form.solved_text import SolvedText
from loba_tui.core.program.evaluation.attacks.attack import attack_erasure
from loba_tui.core.program.evaluation.attacks.outcome import Attacks
from loba_tui.core.program.evaluation.calibration.calibrate import Calibration, calibrate
from loba_tui.core.program.evaluation.calibration.looks import (
    Looks,
    calibration_grid,
    calibration_prompts,
)
from loba_tui.core.program.evaluation.costs.concept_costs import ConceptCosts
from loba_tui.core.program.evaluation.costs.files import write_costs
from loba_tui.core.program.evaluation.proof import draw_proof, prove
from loba_tui.core.program.evaluation.report import Report
from loba_tui.core.program.open_model import OpenModel
from loba_tui.core.program.sampling.images import Progress
from loba_tui.core.program.sampling.run_strips import StripDrawer, go_on_or_stop
from loba_tui.core.program.training.adapter_run import AdapterRun
from loba_tui.core.program.training.initial_adapter import described
from loba_tui.core.recipe.schema import Recipe


def output_of(model: OpenModel, run: AdapterRun) -> AdapterOutput:
    """Return what a run has made, ready to be written."""
    if isinstance(model.text, SolvedText):
        return model.text
    text = trained_text(model.text)
    encoders = text.encoders if text is not None else {}
    shares = run.shares if isinstance(run, SolvedRun) else ()
    return DenoiserOutput(model.container.denoiser, encoders, run.parameters, shares)


def finish(recipe: Recipe, model: OpenModel, run: AdapterRun, strips: StripDrawer) -> None:
    """Write the adapter of a finished run, prove it, and note both in the run's events.

    Raises:
        Interrupted: The run was asked to stop meanwhile; what is written by then stays.
    """
    context = run.steering.context
    run_dir, records = context.run_dir, context.records
    metadata = _metadata(recipe, model, run)
    output = output_of(model, run)
    written: dict[str, WrittenFile] = {}

    def write() -> None:
        run.steering.disk.persist(
            lambda: written.update(output.write(run_dir.adapter_dir, metadata)),
            num_bytes=output.num_bytes,
            step=run.step,
            is_alone=True,
        )

    write()
    kohya = str(run_dir.adapter_kohya) if run_dir.adapter_kohya.is_there() else None
    comfy = {"comfy": str(run_dir.adapter_comfy)} if run_dir.adapter_comfy.is_there() else {}
    notes = [*output.notes(written), *_quantized_notes(recipe, context.plugins)]
    records.event("exported", path=str(run_dir.adapter), kohya=kohya, **comfy, notes=notes)
    costs = _costs(run)
    calibration = _calibrated(recipe, model, run, output)
    if calibration is not None:
        metadata |= _prefixed(keys.CALIBRATION_PREFIX, calibration.summary())
        write()
    if not recipe.proof.enabled:
        records.status(phase="sampling")
        strips.draw(run.scale, run.step)
        return
    report = _proved(recipe, model, run, strips, calibration, costs)
    if report.calibration is not None:
        metadata |= _prefixed(keys.CALIBRATION_PREFIX, report.calibration.summary())
    metadata |= _prefixed(keys.EFFECT_PREFIX, report.summary())
    write()
    records.event("measured", outcome=report.outcome, verdict=list(report.verdict))


def _proved(
    recipe: Recipe,
    model: OpenModel,
    run: AdapterRun,
    strips: StripDrawer,
    calibration: Calibration | None,
    costs: ConceptCosts | None,
) -> Report:
    """Draw the proof and the last strip, which mostly lies in it, and measure the adapter."""
    context = run.steering.context
    attacks = _attacked(recipe, model, run)
    context.records.status(phase="measuring", measured=None, to_measure=None)
    drawn = draw_proof(
        model.container,
        run.scale,
        recipe,
        model.drawn_embeds,
        progress=_progress(run),
        plugins=context.plugins,
    )
    strips.draw(run.scale, run.step, drawn)
    return prove(
        model.container,
        run.scale,
        recipe,
        model.drawn_embeds,
        run_dir=context.run_dir,
        progress=_progress(run),
        plugins=context.plugins,
        remark=run.result.remark,
        calibration=calibration,
        attacks=attacks,
        costs=costs,
        drawn=drawn,
    )


def _quantized_notes(recipe: Recipe, plugins: Plugins) -> list[str]:
    """Say that what the adapter is trained and proven on is not the base model bit for bit."""
    by = quantized_by(recipe.base_model, plugins)
    if not by:
        return []
    return [
        f"The base model was held in fewer bits by {by}, in training, strips and proof alike. The"
        " adapter goes with the base model in any precision; its figures are those of this one."
    ]


def _metadata(recipe: Recipe, model: OpenModel, run: AdapterRun) -> dict[str, str]:
    """Return where a run's adapter is from, as its files say it."""
    changes, plugins = run.steering.settings.record, run.steering.context.plugins
    metadata = provenance(recipe, model.container, run.result.step, changes, plugins, done=run.step)
    metadata |= run.result.metadata
    if model.data is not None:
        metadata[keys.DATA_KEY] = model.data.fingerprint
    if run.init_from is not None:
        metadata[keys.INIT_FROM_KEY] = described(run.init_from)
    if run.inexact:
        metadata[keys.INEXACT_KEY] = "; ".join(run.inexact)
    return metadata


def _costs(run: AdapterRun) -> ConceptCosts | None:
    """Write what an edit does to its concepts and to other prompts, where a run knows that."""
    costs = run.costs if isinstance(run, SolvedRun) else None
    if costs is not None:
        write_costs(costs, run.steering.context.run_dir)
        run.steering.context.records.event("costs", sentences=list(costs.sentences()))
    return costs


def check_calibration(recipe: Recipe, model: OpenModel) -> None:
    """Find what a run could not be calibrated for at its end.

    Raises:
        RecipeError: The adapter is not linear in its strength, or no prompt is left to draw.
    """
    if recipe.proof.calibrate is not None:
        check_linear(model.container.denoiser)
        _prompts(recipe, model)


def _calibrated(
    recipe: Recipe, model: OpenModel, run: AdapterRun, output: AdapterOutput
) -> Calibration | None:
    """Give the adapter's weights the strength that the recipe asks for, if it does.

    The weights change in memory and in the files, never in a checkpoint: a run that goes on begins
    with those that were trained, and is calibrated anew.
    """
    section, context = recipe.proof.calibrate, run.steering.context
    if section is None:
        return None
    context.records.status(phase="calibrating")
    looks = Looks(
        model.container,
        run.scale,
        recipe,
        model.drawn_embeds,
        calibration_grid(recipe, _prompts(recipe, model)),
        context.plugins,
        _progress(run),
    )
    calibration = calibrate(section, looks)
    if calibration.outcome != "left":
        output.multiply(calibration.factor)
    context.records.event(
        "calibrated",
        **calibration.summary(),
        num_unet_rows=calibration.num_unet_rows,
        sentences=list(calibration.sentences()),
    )
    return calibration


def _attacked(recipe: Recipe, model: OpenModel, run: AdapterRun) -> Attacks | None:
    """Try to bring back what the adapter has erased, if the recipe asks for it."""
    context = run.steering.context
    if recipe.proof.attacks is not None:
        context.records.status(phase="attacking")
    return attack_erasure(
        model.container,
        run.scale,
        recipe,
        model.drawn_embeds,
        _progress(run),
        plugins=context.plugins,
    )


def _prompts(recipe: Recipe, model: OpenModel) -> tuple[str, ...]:
    return calibration_prompts(recipe, model.data.prompts() if model.data is not None else ())


def _progress(run: AdapterRun) -> Progress:
    context = run.steering.context

    def on_progress(done: int, total: int) -> None:
        go_on_or_stop(context, run.step)
        context.records.status(measured=done, to_measure=total)

    return on_progress


def _prefixed(prefix: str, values: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}{key}": value for key, value in values.items()}
