"""Answers an editor: recipes come in on stdin, what they come to goes out on stdout, as JSON lines.

    -> {"ready": true}
    <- {"id": 3, "recipe": "version: 1…"}
    -> {"id": 3, "section": "learning_rate", "data": {…}}
    -> {"id": 3, "section": "layers", "error": "…"}
    -> {"id": 4, "error": "<editor>:1:1: …"}

Importing torch takes seconds, a curve milliseconds: so the process stays, keeps the models of
shapes that it opened, and gives each section as soon as it is there. A newer recipe takes the place
of an older one that waits. What the run needs is worked out in a thread of its own, since for a
large model with a new adapter that takes seconds, and no curve shall wait for it. The process ends
with its stdin, however the other side went.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from loba_tui.core.associate.model_shapes import ModelShapes, shapes_of
from loba_tui.core.errors import LobaError
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.plugins import Plugins
from loba_tui.core.plugins.loading import as_plugin_error
from loba_tui.core.program.planning.automatic import settle
from loba_tui.core.program.planning.calibration import TIME_UNKNOWN
from loba_tui.core.program.planning.estimate import Estimator, device_of
from loba_tui.core.program.planning.free_resources import free_resources
from loba_tui.core.program.planning.preview import (
    AdaptedShapes,
    Section,
    adapt,
    layers_of,
    learning_rate,
    noise,
    timesteps,
)
from loba_tui.core.program.planning.requirements import as_section
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.units import show_memory

logger = logging.getLogger(__name__)

READY = {"ready": True}
CURVES = {"learning_rate": learning_rate, "timesteps": timesteps, "noise": noise}
MOST_KEPT = 4
"""Models of shapes that are kept; an SD-XL takes some 50 MB of Python objects."""

Value = TypeVar("Value")
Sections = Iterator[tuple[str, Callable[[], dict[str, Any]]]]


class Newest(OrderedDict[str, Value]):
    """Keeps the values that were last asked for."""

    def get_or_make(self, key: str, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made where it is not there."""
        if key not in self:
            self[key] = make()
            while len(self) > MOST_KEPT:
                self.popitem(last=False)
        self.move_to_end(key)
        return self[key]


@dataclass
class Planner:
    """Works out the sections of recipes that differ little from one to the next."""

    plugins: Plugins
    _shapes: Newest[ModelShapes] = field(default_factory=Newest)
    _adapted: Newest[AdaptedShapes] = field(default_factory=Newest)
    _estimators: Newest[Estimator] = field(default_factory=Newest)

    def curves(self, recipe: Recipe) -> Sections:
        """Yield the names of the sections to draw, and how each is computed."""
        for name, section in CURVES.items():
            yield name, partial(self._curve, section, recipe)
        yield "layers", lambda: layers_of(recipe, self._adapt(recipe), self.plugins)

    def requirements(self, recipe: Recipe) -> Sections:
        """Yield what the run will need, and how it is computed."""
        yield "needs", lambda: self._requirements(recipe)

    def _curve(self, section: Section, recipe: Recipe) -> dict[str, Any]:
        return section(recipe, self._open(recipe), self.plugins)

    def _open(self, recipe: Recipe) -> ModelShapes:
        model = recipe.base_model
        key = json.dumps([model.id, model.revision])
        return self._shapes.get_or_make(key, lambda: shapes_of(recipe))

    def _adapt(self, recipe: Recipe) -> AdaptedShapes:
        model, adapter = recipe.base_model, recipe.adapter.model_dump_json()
        key = json.dumps([model.id, model.revision, adapter])
        # The adapter stays on the model, so this needs one of its own.
        return self._adapted.get_or_make(
            key, lambda: adapt(recipe, shapes_of(recipe), self.plugins)
        )

    def _requirements(self, recipe: Recipe) -> dict[str, Any]:
        """Return what the run needs; nothing is timed, and no cheaper recipe is looked for."""
        device, is_here = device_of(recipe)
        # It keeps a network for every adapter that it met: a few recipes later it begins anew.
        key = f"{device} {recipe.base_model.model_dump_json()} {recipe.adapter.model_dump_json()}"
        estimator = self._estimators.get_or_make(key, lambda: Estimator(device, self.plugins))
        # To ask CUDA for its free memory takes some hundred MB of it, which a run may need.
        free = free_resources(device, Path.cwd(), is_here=is_here and device.type != "cuda")
        settled = settle(recipe, estimator, free.memory_bytes)
        estimate = estimator.estimate(settled.recipe)
        problem = None
        if free.memory_bytes is not None and estimate.memory.needed > free.memory_bytes:
            needed, there = map(show_memory, (estimate.memory.needed, free.memory_bytes))
            problem = f"it needs about {needed} on {device}, and {there} are free"
        elif free.disk_bytes is not None and estimate.disk.needed > free.disk_bytes:
            needed, there = map(show_memory, (estimate.disk.needed, free.disk_bytes))
            problem = f"it writes about {needed}, and {there} are free on this disk"
        return as_section(estimate, [TIME_UNKNOWN], free, problem, settled=settled)


class Inbox:
    """The newest request that was not taken yet; older ones are of no more interest."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._request: Mapping[str, Any] | None = None

    @property
    def has_newer(self) -> bool:
        """Whether a request waits."""
        return self._request is not None

    def put(self, request: Mapping[str, Any]) -> None:
        """Leave a request in the place of one that waits."""
        with self._condition:
            self._request = request
            self._condition.notify()

    def take(self) -> Mapping[str, Any]:
        """Wait for a request and return it."""
        with self._condition:
            while self._request is None:
                self._condition.wait()
            request, self._request = self._request, None
            return request


def answer(
    request: Mapping[str, Any],
    sections_of: Callable[[Recipe], Sections],
    write: Callable[[dict[str, Any]], None],
    *,
    plugins: Plugins,
    is_stale: Callable[[], bool] = lambda: False,
) -> None:
    """Write what a recipe comes to, a record a section, until it is done or a newer one waits."""
    number = request.get("id")
    try:
        recipe = parse_text(str(request.get("recipe", "")), "<editor>", plugins=plugins)
    except LobaError as error:
        write({"id": number, "error": str(error)})
        return
    for name, compute in sections_of(recipe):
        if is_stale():
            return
        try:
            record: dict[str, Any] = {"data": compute()}
        except Exception as error:
            # The next change may mend it, and the other sections are of use without this one.
            ours = error if isinstance(error, LobaError) else None
            ours = ours or as_plugin_error(error, plugins.user.folder)
            if ours is None:
                logger.warning("no %s", name, exc_info=True)
            record = {"error": str(ours or f"{type(error).__name__}: {error}")}
        write({"id": number, "section": name, **record})


def serve_plans(plugins: Plugins) -> int:
    """Answer until stdin ends, which ends the process."""
    # Libraries print; what they say must not get between the records.
    records = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock, planner = threading.Lock(), Planner(plugins)

    def write(record: dict[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False) + "\n"
        with lock:
            records.write(line)
            records.flush()

    curves, requirements = Inbox(), Inbox()

    def draw() -> None:
        while True:
            request = curves.take()
            answer(
                request, planner.curves, write, plugins=plugins, is_stale=lambda: curves.has_newer
            )
            if not curves.has_newer:
                requirements.put(request)

    def estimate() -> None:
        while True:
            answer(requirements.take(), planner.requirements, write, plugins=plugins)

    for work in (draw, estimate):
        threading.Thread(target=work, daemon=True).start()
    write(READY)
    for line in sys.stdin:
        try:
            request = parse_json(line)
        except ValueError:
            continue
        if isinstance(request, dict):
            curves.put(request)
    # The other side is gone, and whatever is being computed is for nobody.
    os._exit(0)
