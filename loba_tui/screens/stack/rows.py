"""What the stack editor says of parts and fields, and the plan of changing a running run."""

from __future__ import annotations

import textwrap
from pathlib import Path

from loba_tui.client.context import Context
from loba_tui.client.recipes import files as recipe_files
from loba_tui.client.recipes.files import RecipeFile
from loba_tui.core.recipe import shipped
from loba_tui.screens.stack.model import Field, Slot, StackModel, written
from loba_tui.widgets.line import Piece
from loba_tui.widgets.table_rows import Cell, Column, Row

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
