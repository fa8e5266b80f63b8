"""One training run from its recipe to the proven adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from loba_tui.core.plugin_sources import SHIPPED, PluginSources
from loba_tui.core.program.build import (
    Built,
    OpenModel,
    build,
    build_accelerator,
    open_model,
    prompts_of,
)
from loba_tui.core.program.finish import draw_sample, finish
from loba_tui.core.program.proof import check_measures
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import RunWriter


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
    sources: PluginSources = SHIPPED,
) -> None:
    """Train a recipe, export the adapter and prove it.

    Args:
        recipe: What to do.
        run_dir: Where; None on processes that are told by the first one.
        writer: The run's records; None on processes other than the first.
        flag: Asked at each step boundary; set means save and stop.
        local_rank: This process among those of its host.
        resume: Go on from the newest checkpoint that verifies.
        sources: Where the user's own drop-ins lie.
    """
    # What would only fail at the end is found before anything is loaded.
    check_measures(recipe, sources)
    accelerator = build_accelerator(recipe, local_rank=local_rank)
    _be_reproducible(accelerator.device)
    run_dir = _agreed_run_dir(accelerator, run_dir)

    def on_phase(phase: str) -> None:
        if writer is not None:
            writer.status(phase=phase, total=recipe.train.steps, device=str(accelerator.device))

    model = open_model(recipe, prompts=prompts_of(recipe), local_rank=local_rank, on_phase=on_phase)
    built: Built | None = None

    def sample(step: int) -> None:
        assert built is not None
        assert writer is not None
        draw_sample(recipe, model, built, writer, step, sources)

    built = build(
        recipe,
        model,
        accelerator=accelerator,
        run_dir=run_dir,
        writer=writer,
        should_stop=lambda: _any_process(accelerator, flag.is_set),
        sample=sample,
        sources=sources,
    )
    if writer is not None:
        writer.event("built", **_facts(accelerator, model, built))
    if resume:
        _restore(built, writer)
    built.trainer.run()
    accelerator.wait_for_everyone()
    if writer is not None:
        with built.trainer.averaged_weights():
            finish(recipe, model, built, writer, sources)
    accelerator.end_training()


def _restore(built: Built, writer: RunWriter | None) -> None:
    checkpoint, skipped = built.trainer.load_newest()
    if writer is None:
        return
    for reason in skipped:
        writer.event("warning", message=f"skipped checkpoint {reason}")
    step = checkpoint.step if checkpoint is not None else 0
    writer.event("resumed", step=step)


def _be_reproducible(device: torch.device) -> None:
    """Ask torch for the same bits from the same seed; a no-op on the CPU."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def _agreed_run_dir(accelerator: Accelerator, run_dir: RunDir | None) -> RunDir:
    if accelerator.num_processes == 1:
        assert run_dir is not None
        return run_dir
    paths = [str(run_dir.path) if run_dir is not None else ""]
    broadcast_object_list(paths)
    return RunDir(Path(paths[0]))


def _any_process(accelerator: Accelerator, is_set: bool) -> bool:
    """Return whether any process is to stop: all must leave the loop at the same step."""
    if accelerator.num_processes == 1:
        return is_set
    flags = torch.tensor([int(is_set)], device=accelerator.device)
    return bool(accelerator.gather(flags).any())


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
