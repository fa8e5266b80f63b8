"""What the benchmarks share: a recipe made ready to train, and its effect read off pixels."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.build import build
from loba_tui.core.program.changed_text import changed_text, trains_text
from loba_tui.core.program.data.open import open_data
from loba_tui.core.program.engines.open import open_engine
from loba_tui.core.program.evaluation.figures import measure_figures
from loba_tui.core.program.evaluation.measure import measure, read_values
from loba_tui.core.program.evaluation.report import Report, make_report
from loba_tui.core.program.open_model import OpenModel, open_model, prompts_of
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.sampling.recipe_images import Grid, draw_grid
from loba_tui.core.program.steering.boundary import Steering
from loba_tui.core.program.steering.context import RunContext
from loba_tui.core.program.steering.disk_wait import DiskWait
from loba_tui.core.program.steering.live_settings import LiveSettings
from loba_tui.core.program.steering.stop import StopRequest
from loba_tui.core.program.training.adapter_run import AdapterRun
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import Records

RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True)
class Ready:
    """A recipe with its loaded model and the run that makes its adapter."""

    recipe: Recipe
    model: OpenModel
    run: AdapterRun
    records: LastFigures

    @property
    def num_unet_rows(self) -> int:
        """Rows that training has passed through the UNet so far."""
        return int(self.records.figures.get("forwards", 0))


class LastFigures(Records):
    """Keeps the figures of a run's last step alone."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    def metric(self, *, step: int, **values: Any) -> None:
        """Take the figures of a step."""
        self.figures = values


def ready(
    overrides: Sequence[str],
    *,
    recipe: Path = RECIPES / "slider_unet.yaml",
    sample: Callable[[int], None] = lambda step: None,
) -> Ready:
    """Return a recipe with `key.path=value` overrides, ready to train in a throw-away folder.

    Args:
        overrides: Of the recipe.
        recipe: Its file.
        sample: Called with the step wherever a strip would be drawn.
    """
    # Probes are off unless asked for: what is timed is training.
    resolved = load_recipe(recipe, ["train.efficacy_every=0", *overrides], plugins=SHIPPED)
    records = LastFigures()
    data = open_data(resolved, records, lambda phase: None, SHIPPED)
    captions = data.all_prompts() if data is not None else []
    model = open_model(
        resolved,
        prompts=[*prompts_of(resolved), *captions],
        plugins=SHIPPED,
        keep_text_encoders=trains_text(resolved, SHIPPED),
    )
    model = replace(model, text=changed_text(resolved, model, SHIPPED))
    if data is not None:
        data.encode(model.container, model.open_latents)
        model = replace(model, data=data)
    run = build(
        resolved,
        model,
        engine=open_engine(resolved),
        steering=steering(resolved, RunDir(Path(tempfile.mkdtemp(prefix="loba-bench-"))), records),
        strips=_Looks(sample),  # type: ignore[arg-type]
    )
    return Ready(resolved, model, run, records)


def steering(recipe: Recipe, run_dir: RunDir, records: Records) -> Steering:
    """Return the steering of a run that one process makes and nobody stops."""
    stop = StopRequest(SimpleNamespace(is_set=False))
    context = RunContext(run_dir, records, Processes(), stop, SHIPPED)
    return Steering(context, LiveSettings(recipe, context), DiskWait(context), lambda command: {})


class _Looks:
    """Looks at a run where it would draw a strip."""

    def __init__(self, look: Callable[[int], None]) -> None:
        self._look = look

    def draw_between_steps(self, scale: object, step: int) -> None:
        self._look(step)


def prove_quietly(
    subject: Ready,
    scales: Sequence[float] | None = None,
    *,
    prompts: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Report:
    """Return the report on some prompts, with nothing written.

    Args:
        subject: What was trained.
        scales: At which scales; None takes the recipe's.
        prompts: Of the concepts or held out; None takes the recipe's held-out ones.
        seeds: Of the noise; None takes the recipe's.
    """
    recipe = subject.recipe
    scales = recipe.sample.scales if scales is None else scales
    grid = Grid(prompts or recipe.proof_prompts, seeds or recipe.proof.seeds, scales)
    with subject.run.averaged_weights():
        images = draw_grid(
            subject.model.container,
            subject.run.scale,
            recipe,
            subject.model.drawn_embeds,
            grid,
            plugins=SHIPPED,
        )
    samples = images.reshape(-1, *images.shape[2:])
    figures = measure_figures(
        scales,
        samples,
        measured=measure(recipe.proof.measure, samples, plugins=SHIPPED)
        if recipe.proof.measure
        else None,
        labels={
            choice.name: read_values(choice, samples, plugins=SHIPPED)
            for choice in recipe.proof.preserve
        },
    )
    return make_report(recipe.name, figures)


def least_preserved(report: Report) -> float:
    """Return the smallest share of samples with an unchanged label at scales within ±2."""
    shares = [preserved.least_within_2 for preserved in report.preservation]
    return min(share for share in shares if share is not None)


def machine() -> str:
    """Return one line about what this runs on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{platform.machine()}, {device}, torch {torch.__version__}, numpy {np.__version__}"


class CpuClock:
    """CPU seconds of this process, without what is spent while it is paused."""

    def __init__(self) -> None:
        self._begin = time.process_time()
        self._paused = 0.0

    def seconds(self) -> float:
        return time.process_time() - self._begin - self._paused

    def without(self, work: Callable[[], None]) -> None:
        """Run `work` off the clock."""
        begin = time.process_time()
        try:
            work()
        finally:
            self._paused += time.process_time() - begin
