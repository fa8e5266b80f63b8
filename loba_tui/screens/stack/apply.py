"""Changing a run that goes on to an edited recipe: which run, what can be changed, a yes."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loba_tui.client.runs import steer as runs
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.changes import ChangeRecord
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.screens.base import LobaScreen
from loba_tui.screens.stack.fields import written
from loba_tui.screens.stack.model import StackModel
from loba_tui.widgets.dialogs import Choice, ChoiceDialog, ConfirmDialog, TextDialog
from loba_tui.widgets.line import Piece


async def apply_to_run(screen: LobaScreen, model: StackModel) -> None:
    """Choose a run that is alive, show what of the recipe it can take, and change it."""
    alive = await screen.in_thread(alive_runs, screen.context.ledger)
    if not alive:
        screen.tell("No run is alive.", "warn")
        return
    choices = [Choice(str(run.path), run.name) for run in alive]
    key = await screen.ask(ChoiceDialog("Apply to which run?", choices))
    if key is None:
        return
    plugins = screen.context.plugins
    plan = await screen.in_thread(LivePlan.of, model, RunDir(Path(key)), plugins)
    if not plan.able:
        await screen.ask(TextDialog("Nothing can be changed", plan.rows))
        return
    title = f"Change {plan.run.name} while it goes on?"
    if await screen.ask(ConfirmDialog(title, plan.rows, "change")):
        answers = await screen.in_thread(plan.carry_out, plugins)
        screen.tell("; ".join(answers), "good")


def alive_runs(ledger: Ledger) -> list[RunDir]:
    """Return the runs that can be steered, newest first."""
    return [run for run in reversed(ledger.runs()) if RunReader(run).liveness().is_alive]


@dataclass(frozen=True)
class LivePlan:
    """The changes that bring a running run to an edited recipe.

    Attributes:
        able: Keys with the value now and then.
        unable: Keys that differ and cannot be changed while it goes on.
    """

    run: RunDir
    able: tuple[tuple[str, Any, Any], ...]
    unable: tuple[str, ...]

    @classmethod
    def of(cls, model: StackModel, run: RunDir, plugins: Plugins) -> LivePlan:
        """Compare an edited recipe with what a run is doing now, steering included."""
        record = ChangeRecord.read(run.changes) or ChangeRecord()
        now = load_recipe(
            run.recipe,
            [f"{change.key}={written(change.new)}" for change in record.changes],
            plugins=plugins,
        )
        able, unable = model.live_changes(now)
        return cls(run, tuple((key, _at(now, key), new) for key, new in able), tuple(unable))

    @property
    def rows(self) -> list[list[Piece]]:
        rows: list[list[Piece]] = [
            ["  ", (key, "strong"), f"  {written(old)} → {written(new)}"]
            for key, old, new in self.able
        ]
        if not rows:
            rows = [["Nothing differs that a run takes while it goes on."]]
        if self.unable:
            keys = ", ".join(self.unable)
            rows += [[""], [("Stays as it is until a new run:", "warn")]]
            rows += [[f"  {line}"] for line in textwrap.wrap(keys, 84)]
        if self.able:
            key, _, new = self.able[0]
            rows += [[""], [(f"the same as: loba runs set {self.run.name} {key}={new}", "dim")]]
        return rows

    def carry_out(self, plugins: Plugins) -> list[str]:
        """Send the changes and return what the run answers.

        Raises:
            RecipeError: The run is not alive any more, or refuses one.
        """
        return [
            runs.steer(self.run, runs.set_command(self.run, f"{key}={written(new)}", plugins))
            for key, _, new in self.able
        ]


def _at(recipe: Recipe, key: str) -> Any:
    value: Any = recipe.model_dump(mode="json")
    for step in key.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value
