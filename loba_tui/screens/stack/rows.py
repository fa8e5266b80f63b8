"""Rows of the stack editor: its parts, and the fields of a part."""

from __future__ import annotations

import textwrap

from loba_tui.screens.stack.fields import Field, Slot, written
from loba_tui.screens.stack.model import StackModel
from loba_tui.widgets.line import Piece
from loba_tui.widgets.table_rows import Cell, Column, Row

SLOT_COLUMNS = (Column("part", "", 13), Column("choice", "", 0, least=6))
FORM_COLUMNS = (
    Column("key", "key", 22),
    Column("value", "value", 0, least=8),
    Column("from", "from", 7, at_least=44),
)
_DETAIL_ROWS = 4


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
    takes = f"{field.expected[0].upper()}{field.expected[1:]}"
    default = "" if field.is_required else f"; default {written(field.default)}"
    live = "; a running run can take it" if field.is_live else ""
    lines = [
        *textwrap.wrap(field.help, max(20, width)),
        *textwrap.wrap(f"{takes}{default}{live}.", max(1, width)),
    ]
    return [[(line, "dim")] for line in lines[:_DETAIL_ROWS]]


def field_rows(field: Field) -> list[list[Piece]]:
    """Return what helps to type a value."""
    rows: list[list[Piece]] = [[line] for line in textwrap.wrap(field.help, 88)]
    default = "none" if field.is_required else written(field.default)
    return [*rows, [("takes    ", "dim"), field.expected], [("default  ", "dim"), default]]
