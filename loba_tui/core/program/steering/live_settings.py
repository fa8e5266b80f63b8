"""The settings that can change while a run goes on, and the record of their changes.

A resumed or replayed run changes the same settings at the same steps, as the record has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.steering.context import RunContext
from loba_tui.core.recipe.load import recipe_with
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.changes import Change, ChangeRecord
from loba_tui.core.run.control import LIVE_KEYS


class LiveSettings:
    """Values by key of LIVE_KEYS, and the objects of the run that they are handed to."""

    def __init__(self, recipe: Recipe, context: RunContext) -> None:
        self._recipe = recipe
        self._context = context
        self._setters: dict[str, Callable[[Any], None]] = {}
        self._initial = _live_values(recipe, context.plugins)
        self._values = dict(self._initial)
        self._applied_until = -1
        self.record = ChangeRecord()

    @property
    def steps(self) -> int:
        """The step after which the run is done."""
        return int(self._values.get("train.steps", 1))

    @property
    def save_every(self) -> int:
        """Steps between checkpoints; 0 saves at the end only."""
        return int(self._values["save.every"])

    @property
    def sample_every(self) -> int:
        """Steps between strips; 0 draws the last one only."""
        return int(self._values["sample.every"])

    def bind(self, key: str, setter: Callable[[Any], None]) -> None:
        """Say how a change of one of LIVE_KEYS reaches what it is about."""
        if key in self._values:
            self._setters[key] = setter

    def load(self, record: ChangeRecord, step: int) -> None:
        """Take a record over and set everything as it was when `step` steps were done.

        Changes of later steps are made again when those steps are reached.
        """
        self.record = record
        self._values = dict(self._initial)
        for change in record.changes:
            if change.step <= step:
                self._values[change.key] = change.new
        self._applied_until = step
        for key, setter in self._setters.items():
            setter(self._values[key])

    def repeat_changes(self, step: int) -> None:
        """Make the recorded changes of this step that were not made yet."""
        if step > self._applied_until:
            for change in self.record.changes:
                if self._applied_until < change.step <= step:
                    self._apply(change)
            self._applied_until = step

    def change(self, key: str, value: object, step: int) -> Change:
        """Change a setting from the next step on.

        Raises:
            RecipeError: It cannot be changed, or not to this value.
        """
        new = self._checked(key, value, step)
        change = Change(step, key, self._values[key], new)
        self.record = self.record.with_change(change)
        self._apply(change)
        self._keep_record()
        return change

    def is_skipped(self, step: int) -> bool:
        """Say whether a rollback has found the draw of this step to be of no use."""
        return step in self.record.skipped

    def skip(self, step: int) -> None:
        """Leave the draw of a step out from now on, in a replay too."""
        self.record = self.record.with_skipped(step)
        self._keep_record()

    def _checked(self, key: str, value: object, step: int) -> Any:
        """Return a value as the recipe's own schema reads it; raise RecipeError otherwise."""
        if key not in LIVE_KEYS:
            raise RecipeError(
                f"{key} cannot be changed while a run goes on",
                f"What can be: {', '.join(LIVE_KEYS)}.",
            )
        reaches = LIVE_KEYS[key] == "loop" or key in self._setters
        if key not in self._values or not reaches:
            raise RecipeError(f"{key}: {self._recipe.method.name} cannot change it as it runs")
        try:
            recipe = recipe_with(self._recipe, key, value, plugins=self._context.plugins)
        except ProblemsFound as error:
            told = "; ".join(f"{each.key}: {each.message}" for each in error.problems)
            raise RecipeError(told) from error
        new = _live_values(recipe, self._context.plugins)[key]
        if key == "train.steps" and new <= step:
            raise RecipeError(
                f"train.steps: {step} steps are done already, so {new} cannot be the last",
                "`loba runs stop` ends the run here.",
            )
        return new

    def _apply(self, change: Change) -> None:
        self._values[change.key] = change.new
        if change.key in self._setters:
            self._setters[change.key](change.new)
        self._context.records.event(
            "steered", step=change.step, key=change.key, old=change.old, new=change.new
        )

    def _keep_record(self) -> None:
        try:
            self._context.records.write_file(
                self._context.run_dir.changes.name, self.record.text().encode() + b"\n", sync=True
            )
        except ResourceError as error:
            # The next checkpoint carries the record too.
            self._context.records.warn(str(error))


def _live_values(recipe: Recipe, plugins: Plugins) -> dict[str, Any]:
    """Return the values of a recipe by key; a method that solves is over before any could change.

    An option of the method that the recipe leaves out has the method's own default.
    """
    described = plugins.describe("methods", recipe.method.name)
    if described.constants.get("SOLVES"):
        return {}
    values: dict[str, Any] = {}
    for key in LIVE_KEYS:
        section, _, name = key.partition(".")
        if section != "method":
            values[key] = getattr(getattr(recipe, section), name)
        elif name in described.options:
            values[key] = recipe.method.options.get(name, described.options[name].default)
    return values
