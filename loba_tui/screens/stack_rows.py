"""What the stack editor says of parts and fields, and the plan of changing a running run."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loba_tui import recipe_files, runs
from loba_tui.context import Context
from loba_tui.core.plugin_sources import PluginSources
from loba_tui.core.recipe import shipped
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.steering import SteeringRecord
from loba_tui.recipe_files import RecipeFile
from loba_tui.stack_model import Field, Slot, StackModel, written
from loba_tui.widgets.line import Piece
from loba_tui.widgets.table import Cell, Column, Row

SLOT_COLUMNS = (Column("part", "", 13), Column("choice", "", 0, least=6))
FORM_COLUMNS = (
    Column("key", "key", 22),
    Column("value", "value", 0, least=8),
    Column("from", "from", 7, at_least=44),
)
_DETAIL_ROWS = 4


def first_file(context: Context) -> RecipeFile:
    """Return the recipe that an editor opens when none was asked for."""
    files = recipe_files.listing(Path.cwd(), context.ledger)
    example = [file for file in files if file.path == shipped.find("slider")]
    local = [file for file in files if file.origin == "local" and file.path.parent == Path.cwd()]
    return (local or example or files)[0]


def slot_row(slot: Slot, model: StackModel) -> Row:
    """Return a part of the recipe as a row."""
    fields = model.fields(slot)
    choice = fields[0].written if fields[0].is_name else f"{fields[0].written} {fields[0].label}"
    given = any(field.is_given for field in fields)
    return Row(slot.id, (slot.title, Cell(choice, "" if given else "dim")))


def field_row(field: Field) -> Row:
    """Return a field as a row; what the recipe does not say itself is dim."""
    source = "recipe" if field.is_given else "default"
    tone = "strong" if field.is_given else "dim"
    return Row(field.key, (field.label, Cell(field.written, tone), Cell(source, "dim")))


def detail_rows(field: Field, width: int) -> list[list[Piece]]:
    """Return what is known of a field, in a few rows."""
    said = field.help or ""
    takes = f"{field.expected[0].upper()}{field.expected[1:]}"
    default = "" if field.is_required else f"; default {written(field.default)}"
    live = "; a running run can take it" if field.is_live else ""
    lines = [
        *textwrap.wrap(said, max(20, width)),
        *textwrap.wrap(f"{takes}{default}{live}.", max(1, width)),
    ]
    return [[(line, "dim")] for line in lines[:_DETAIL_ROWS]]


def field_rows(field: Field) -> list[list[Piece]]:
    """Return what helps to type a value."""
    rows: list[list[Piece]] = [[line] for line in textwrap.wrap(field.help, 88)]
    default = "none" if field.is_required else written(field.default)
    return [*rows, [("takes    ", "dim"), field.expected], [("default  ", "dim"), default]]


def alive_runs(ledger: Ledger) -> list[RunDir]:
    """Return the runs that can be steered, newest first."""
    return [run for run in reversed(ledger.runs()) if RunReader(run).liveness().is_alive]


@dataclass(frozen=True)
class LivePlan:
    """What changing a running run to an edited recipe comes to.

    Attributes:
        able: Keys with the value now and then.
        unable: Keys that differ and cannot be changed while it goes on.
    """

    run: RunDir
    able: tuple[tuple[str, Any, Any], ...]
    unable: tuple[str, ...]

    @classmethod
    def of(cls, model: StackModel, run: RunDir, sources: PluginSources) -> LivePlan:
        """Compare an edited recipe with what a run is doing now, steering included."""
        record = SteeringRecord.read(run.steering) or SteeringRecord()
        now = load_recipe(
            run.recipe,
            [f"{change.key}={written(change.new)}" for change in record.changes],
            sources=sources,
        )
        able, unable = model.live_changes(now)
        return cls(run, tuple((key, _at(now, key), new) for key, new in able), tuple(unable))

    @property
    def rows(self) -> list[list[Piece]]:
        """Return it for reading."""
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

    def carry_out(self, sources: PluginSources) -> list[str]:
        """Send the changes and return what the run answers.

        Raises:
            RecipeError: The run is not alive any more, or refuses one.
        """
        return [
            runs.steer(self.run, runs.set_command(self.run, f"{key}={written(new)}", sources))
            for key, _, new in self.able
        ]


def _at(recipe: Recipe, key: str) -> Any:
    value: Any = recipe.model_dump(mode="json")
    for step in key.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value
