"""One training run from its recipe to the proven adapter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from loba_tui.core.associate.machine import dtype_name
from loba_tui.core.errors import CorruptError, Interrupted, RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.build import build
from loba_tui.core.program.changed_text import changed_text, trains_text
from loba_tui.core.program.data.open import image_progress, open_data
from loba_tui.core.program.data.prepare import PreparedData
from loba_tui.core.program.engines.base import Engine
from loba_tui.core.program.engines.open import open_engine
from loba_tui.core.program.evaluation.measure import check_measures, fetch_models
from loba_tui.core.program.finish import check_calibration, finish
from loba_tui.core.program.kernels.exactness import set_exactness
from loba_tui.core.program.open_model import OpenModel, open_model, prompts_of, with_images
from loba_tui.core.program.peers.group import open_beats
from loba_tui.core.program.peers.watch import watch_peers
from loba_tui.core.program.planning.preflight import Preflight
from loba_tui.core.program.sampling.run_strips import StripDrawer
from loba_tui.core.program.steering.boundary import Steering
from loba_tui.core.program.steering.components import Components
from loba_tui.core.program.steering.context import RunContext
from loba_tui.core.program.steering.disk_wait import DiskWait
from loba_tui.core.program.steering.live_settings import LiveSettings
from loba_tui.core.program.steering.stop import Flag, StopRequest
from loba_tui.core.program.training.adapter_run import AdapterRun
from loba_tui.core.program.training.initial_adapter import InitialFile
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.changes import ChangeRecord
from loba_tui.core.run.directory import RunDir, checkpoint_names
from loba_tui.core.run.start_options import StartOptions
from loba_tui.core.run.writer import Records


def train(
    recipe: Recipe,
    run_dir: RunDir | None,
    records: Records,
    flag: Flag,
    start: StartOptions,
    plugins: Plugins,
) -> None:
    """Train a recipe, export the adapter and prove it.

    Args:
        run_dir: None on processes that are told by the first one.
        flag: Asked at each step boundary; set means save and stop.
    """
    # What would only fail at the end is found before anything is loaded.
    check_measures(recipe, plugins)
    engine = open_engine(recipe, local_rank=start.local_rank)
    processes, device = engine.processes, engine.accelerator.device
    set_exactness(recipe.train, device)
    stop = StopRequest(flag, start.deadline)
    context = RunContext(processes.share(run_dir), records, processes, stop, plugins)
    with watch_peers(context, open_beats(processes, device), recipe.parallel.timeout):
        _train(recipe, engine, context, start)


def _train(recipe: Recipe, engine: Engine, context: RunContext, start: StartOptions) -> None:
    processes, device, records = engine.processes, engine.accelerator.device, context.records
    plugins = context.plugins
    preflight = Preflight(recipe, device, plugins, processes.num)
    recipe = preflight.settle(context, engine)
    settings = LiveSettings(recipe, context)
    if processes.is_first:
        preflight.announce(records, context.run_dir.path, force=start.force)
    preparation = _Preparation(recipe, context, start, settings.steps, device)
    initial = _initial_adapter(recipe, context, start)
    preparation.fetch_models()
    images = preparation.open_images()
    with preflight.explains_out_of_memory():
        model = preparation.open_model(images)
        components = Components(model.wrapper.cache, recipe.base_model.id, model.container, records)
        steering = Steering(context, settings, DiskWait(context), components.obey)
        strips = StripDrawer(recipe, model, context, components, engine)
        run = build(
            recipe,
            model,
            engine=engine,
            steering=steering,
            strips=strips,
            initial=initial,
        )
        check_calibration(recipe, model)
        _announce(records, engine, model, run)
        components.publish()

        _take_up_changes(settings, context)
        if start.resume:
            _restore(run, records, allow_inexact=start.allow_inexact)
            _change(run, settings, start.changes)
        records.goes_on()
        run.run(until=run.step + 1)
        preflight.compare(records)
        run.run()

        engine.accelerator.wait_for_everyone()
        with run.result.weights(), engine.led() as leads:
            if leads:
                finish(recipe, model, run, strips)
    engine.accelerator.end_training()


@dataclass(frozen=True)
class _Preparation:
    """Opens a run's images and its model; it can be stopped, and tells how far it is."""

    recipe: Recipe
    context: RunContext
    start: StartOptions
    steps: int
    device: torch.device

    def fetch_models(self) -> None:
        """Have what measures read with, so that no run ends without what it is measured by."""
        self._on_phase("loading")
        fetch_models(self.recipe, self.context.plugins, self._on_fetch)

    def open_images(self) -> PreparedData | None:
        return open_data(self.recipe, self.context.records, self._on_phase, self.context.plugins)

    def open_model(self, images: PreparedData | None) -> OpenModel:
        recipe, records = self.recipe, self.context.records
        model = open_model(
            recipe,
            prompts=[*prompts_of(recipe), *(images.all_prompts() if images is not None else ())],
            plugins=self.context.plugins,
            local_rank=self.start.local_rank,
            on_phase=self._on_phase,
            on_fetch=self._on_fetch,
            tensors=self.start.tensors,
            on_problem=records.warn,
            keep_text_encoders=trains_text(recipe, self.context.plugins),
        )
        model = replace(model, text=changed_text(recipe, model, self.context.plugins))
        if images is None:
            return with_images(recipe, model, None)
        progress = image_progress("encoding images", records, self._on_phase)
        return with_images(recipe, model, images, progress)

    def _on_phase(self, phase: str) -> None:
        self._go_on_or_stop(
            f"stopped while {phase}, before the first step", "loba run --resume RUN starts it."
        )
        self.context.records.status(phase=phase, total=self.steps, device=str(self.device))

    def _on_fetch(self, done: int, total: int) -> None:
        self._go_on_or_stop(
            "stopped while the model was fetched; what came is kept",
            "loba run --resume RUN goes on with it.",
        )
        self.context.records.status(fetched=done, to_fetch=total)

    def _go_on_or_stop(self, message: str, hint: str) -> None:
        # Several processes agree on a stop at the first boundary: one alone would hang the others.
        if self.context.processes.num == 1 and self.context.stop.is_set:
            raise Interrupted(message, hint)


def _initial_adapter(
    recipe: Recipe, context: RunContext, start: StartOptions
) -> InitialFile | None:
    """Read the file that the run begins with, unless it goes on from a checkpoint."""
    # Asked of the first process, as other hosts may lack the folder.
    is_first = context.processes.is_first
    goes_on = start.resume and is_first and bool(checkpoint_names(context.run_dir.checkpoints))
    goes_on = context.processes.share(goes_on)
    if recipe.adapter.init_from is None or goes_on:
        return None
    return InitialFile.read(recipe.adapter.init_from)


def _take_up_changes(settings: LiveSettings, context: RunContext) -> None:
    """Take over what was changed in an earlier part of this run, or in the run to replay."""
    record = None
    if context.processes.is_first:
        try:
            record = ChangeRecord.read(context.run_dir.changes)
        except CorruptError as error:
            # The checkpoints have their own copy.
            context.records.warn(error.message)
    record = context.processes.share(record)
    if record is not None:
        settings.load(record, step=0)


def _restore(run: AdapterRun, records: Records, *, allow_inexact: bool) -> None:
    checkpoint, skipped = run.load_newest(allow_inexact=allow_inexact)
    for reason in skipped:
        records.warn(f"skipped checkpoint {reason}")
    for difference in run.inexact:
        records.warn(f"this run does not go on exactly: {difference}")
    records.event("resumed", step=checkpoint.step if checkpoint is not None else 0)


def _change(run: AdapterRun, settings: LiveSettings, changes: Iterable[tuple[str, Any]]) -> None:
    """Change settings of a run that goes on, from its next step; it may have been finished.

    Raises:
        RecipeError: One cannot be changed, or the run has found that it needs no more steps.
    """
    for key, value in changes:
        if key == "train.steps" and run.stop_reason is not None:
            raise RecipeError(
                f"the run has ended itself after step {run.step}: {run.stop_reason}",
                "Begin a run of its own, without train.stop_when: adapter.init_from takes a run.",
            )
        settings.change(key, value, run.step)


def _announce(records: Records, engine: Engine, model: OpenModel, run: AdapterRun) -> None:
    records.event("built", **_facts(engine, model, run))
    if run.init_from is not None:
        records.event("init_from", **run.init_from)


def _facts(engine: Engine, model: OpenModel, run: AdapterRun) -> dict[str, object]:
    denoiser = model.container.denoiser
    trained = sum(parameter.numel() for parameter in run.parameters.values())
    quantization = model.wrapper.quantization
    packed = {} if quantization is None else {"quantized": quantization.facts()}
    return {
        "device": str(engine.accelerator.device),
        "dtype": dtype_name(model.container.dtype),
        "num_processes": engine.processes.num,
        "threads": torch.get_num_threads(),
        "denoiser_parameters": engine.num_parameters(denoiser),
        **({"held_parameters": engine.num_held(denoiser)} if engine.processes.num > 1 else {}),
        "trained_parameters": trained,
        "base_model_revision": model.container.revision,
        **packed,
    }
