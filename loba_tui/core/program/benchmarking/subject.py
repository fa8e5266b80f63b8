"""A recipe made ready to be measured: its own method and trainer, with nothing saved or drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.benchmarking.random_model import open_random
from loba_tui.core.program.benchmarking.timing import wait_for
from loba_tui.core.program.build import build
from loba_tui.core.program.changed_text import changed_text, trains_text
from loba_tui.core.program.data.open import open_data
from loba_tui.core.program.engines.open import open_engine
from loba_tui.core.program.kernels.exactness import set_exactness
from loba_tui.core.program.open_model import OpenModel, open_model, prompts_of, with_images
from loba_tui.core.program.processes import Processes
from loba_tui.core.program.sampling.run_strips import StripDrawer
from loba_tui.core.program.steering.boundary import Steering
from loba_tui.core.program.steering.context import RunContext
from loba_tui.core.program.steering.disk_wait import DiskWait
from loba_tui.core.program.steering.live_settings import LiveSettings
from loba_tui.core.program.steering.stop import StopRequest
from loba_tui.core.program.training.adapter_run import AdapterRun
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import Records
from loba_tui.models import BUILTIN_PREFIX


class LastFigures(Records):
    """Keeps the figures of a run's last step alone."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    def metric(self, *, step: int, **values: Any) -> None:
        """Take the figures of a step."""
        self.figures = values


@dataclass
class Models:
    """Opens the model of each configuration anew, and encodes the embedded model's prompts once."""

    plugins: Plugins
    _embeds: dict[str, PromptEmbeds] = field(default_factory=dict)

    def open(self, recipe: Recipe, records: Records) -> OpenModel:
        """Return a recipe's model: the embedded one, or another with random weights."""
        data = open_data(recipe, records, lambda phase: None, self.plugins)
        prompts = [*prompts_of(recipe), *(data.all_prompts() if data is not None else ())]
        if recipe.base_model.id.startswith(BUILTIN_PREFIX):
            model = self._embedded(recipe, prompts)
        else:
            model = open_random(recipe, prompts, self.plugins)
        model = replace(model, text=changed_text(recipe, model, self.plugins))
        return with_images(recipe, model, data)

    def _embedded(self, recipe: Recipe, prompts: list[str]) -> OpenModel:
        missing = [prompt for prompt in prompts if prompt not in self._embeds]
        keep = trains_text(recipe, self.plugins)
        model = open_model(recipe, prompts=missing, plugins=self.plugins, keep_text_encoders=keep)
        # Copied out of what holds the model: that has to go with its configuration.
        self._embeds |= {prompt: model.embeds[prompt] for prompt in missing}
        return replace(model, embeds=dict(self._embeds))


@dataclass(frozen=True)
class Subject:
    """A run that steps and leaves nothing behind."""

    recipe: Recipe
    model: OpenModel
    run: AdapterRun
    records: LastFigures

    @property
    def denoiser(self) -> nn.Module:
        """The network that is trained."""
        return self.model.container.denoiser

    @property
    def num_rows(self) -> int:
        """UNet rows so far; one with a backward pass counts as two."""
        return int(self.records.figures.get("forwards", 0))

    def step(self) -> None:
        """Make one optimizer step."""
        self.run.run(until=self.run.step + 1)


def make_subject(recipe: Recipe, models: Models, run_dir: RunDir) -> Subject:
    """Return a recipe that is ready to train, in a folder that nothing is written to.

    Raises:
        LobaError: It cannot be trained.
    """
    records = LastFigures()
    forget_accelerators()
    engine = open_engine(recipe)
    set_exactness(recipe.train, engine.accelerator.device)
    model = models.open(recipe, records)
    stop = StopRequest(SimpleNamespace(is_set=False))
    context = RunContext(run_dir, records, Processes(), stop, models.plugins)
    steering = Steering(
        context, LiveSettings(recipe, context), DiskWait(context), lambda command: {}
    )
    strips = cast(StripDrawer, SimpleNamespace(components=None))  # no step is due for a strip
    run = build(recipe, model, engine=engine, steering=steering, strips=strips)
    wait_for(engine.accelerator.device)
    return Subject(recipe, model, run, records)


def forget_accelerators() -> None:
    """Let the next Accelerator have a precision and an accumulation of its own.

    Accelerate keeps those of the first one for the whole process.
    """
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
