"""One training run from its recipe to the proven adapter."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator

from loba_tui.core.errors import CorruptError, Interrupted
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.build import Built, build, build_accelerator
from loba_tui.core.program.data.open import encode_data, open_data
from loba_tui.core.program.evaluation.measure import check_measures
from loba_tui.core.program.finish import draw_sample, finish
from loba_tui.core.program.open_model import OpenModel, open_model, prompts_of
from loba_tui.core.program.planning.preflight import Preflight
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.steering.boundary import Steering
from loba_tui.core.program.steering.components import Residents
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.changes import ChangeRecord
from loba_tui.core.run.deadline import Deadline
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import RunWriter

logger = logging.getLogger(__name__)


class Flag(Protocol):
    """Something that a signal sets."""

    is_set: bool


def train(
    recipe: Recipe,
    run_dir: RunDir | None,
    writer: RunWriter | None,
    flag: Flag,
    *,
    local_rank: int = 0,
    resume: bool = False,
    deadline: Deadline | None = None,
    force: bool = False,
    allow_inexact: bool = False,
    plugins: Plugins,
    tensors: Path | None = None,
) -> None:
    """Train a recipe, export the adapter and prove it.

    Args:
        recipe: What to do.
        run_dir: Where; None on processes that are told by the first one.
        writer: The run's records; None on processes other than the first.
        flag: Asked at each step boundary; set means save and stop.
        local_rank: This process among those of its host.
        resume: Go on from the newest checkpoint that verifies.
        deadline: Save and stop in time for it.
        force: Start although the estimate says that it cannot fit.
        allow_inexact: Resume a checkpoint that another machine made.
        tensors: Where embeddings and latents are kept between runs; None keeps none.
    """
    # What would only fail at the end is found before anything is loaded.
    check_measures(recipe, plugins)
    accelerator = build_accelerator(recipe, local_rank=local_rank)
    _be_reproducible(accelerator.device)
    processes = Processes(accelerator)
    run_dir = RunDir(Path(processes.share(str(run_dir.path) if run_dir is not None else "")))
    steering = Steering(
        recipe,
        writer=writer,
        processes=processes,
        should_stop=lambda: flag.is_set,
        deadline=deadline,
        plugins=plugins,
    )

    def on_phase(phase: str) -> None:
        if processes.num == 1 and steering.is_to_stop():
            raise Interrupted(
                f"stopped while {phase}, before the first step", "loba run --resume RUN starts it."
            )
        if writer is not None:
            writer.status(phase=phase, total=steering.steps, device=str(accelerator.device))

    def on_fetch(done: int, total: int) -> None:
        if processes.num == 1 and steering.is_to_stop():
            raise Interrupted(
                "stopped while the model was fetched; what came is kept",
                "loba run --resume RUN goes on with it.",
            )
        if writer is not None:
            writer.status(fetched=done, to_fetch=total)

    preflight = Preflight(recipe, accelerator.device, plugins)
    if writer is not None:
        preflight.announce(writer, force=force)
    data = open_data(recipe, writer, on_phase, plugins)
    with preflight.explains_out_of_memory():
        model = open_model(
            recipe,
            prompts=[*prompts_of(recipe), *(data.prompts() if data is not None else ())],
            local_rank=local_rank,
            on_phase=on_phase,
            on_fetch=on_fetch,
            tensors=tensors,
            on_problem=logger.warning if writer is None else writer.warn,
        )
        if data is not None:
            encode_data(data, model.container, model.open_latents, writer, on_phase)
            model = replace(model, data=data)
        residents = Residents(model.wrapper.cache, recipe.base_model.id, model.container, writer)
        steering.bind_memory(residents.obey)
        built: Built | None = None

        def sample(step: int) -> None:
            assert built is not None
            assert writer is not None
            with residents.lent():
                draw_sample(recipe, model, built, writer, step, plugins)

        built = build(
            recipe,
            model,
            accelerator=accelerator,
            run_dir=run_dir,
            writer=writer,
            steering=steering,
            sample=sample,
            plugins=plugins,
        )
        if writer is not None:
            writer.event("built", **_facts(accelerator, model, built))
            residents.publish()
        _take_up_record(steering, processes, run_dir, writer)
        if resume:
            _restore(built, writer, allow_inexact=allow_inexact)
        built.trainer.run(until=built.trainer.step + 1)
        if writer is not None:
            preflight.compare(writer)
        built.trainer.run()
        accelerator.wait_for_everyone()
        if writer is not None:
            with built.trainer.averaged_weights():
                finish(recipe, model, built, writer, plugins)
    accelerator.end_training()


def _take_up_record(
    steering: Steering, processes: Processes, run_dir: RunDir, writer: RunWriter | None
) -> None:
    """Take over what was changed in an earlier part of this run, or in the run to replay."""
    record = None
    try:
        record = ChangeRecord.read(run_dir.changes) if writer is not None else None
    except CorruptError as error:
        assert writer is not None
        # The checkpoints have their own copy.
        writer.event("warning", message=error.message)
    record = processes.share(record)
    if record is not None:
        steering.load(record, step=0)


def _restore(built: Built, writer: RunWriter | None, *, allow_inexact: bool) -> None:
    checkpoint, skipped = built.trainer.load_newest(allow_inexact=allow_inexact)
    if writer is None:
        return
    for reason in skipped:
        writer.event("warning", message=f"skipped checkpoint {reason}")
    for difference in built.trainer.inexact:
        writer.event("warning", message=f"this run does not go on exactly: {difference}")
    step = checkpoint.step if checkpoint is not None else 0
    writer.event("resumed", step=step)


def _be_reproducible(device: torch.device) -> None:
    """Ask torch for the same bits from the same seed; a no-op on the CPU."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def _facts(accelerator: Accelerator, model: OpenModel, built: Built) -> dict[str, object]:
    denoiser = model.container.denoiser
    trained = sum(parameter.numel() for parameter in built.trainer.parameters.values())
    total = sum(parameter.numel() for parameter in denoiser.parameters())
    return {
        "device": str(accelerator.device),
        "dtype": str(model.container.dtype).removeprefix("torch."),
        "num_processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "denoiser_parameters": total,
        "trained_parameters": trained,
        "base_model_revision": model.container.revision,
    }
