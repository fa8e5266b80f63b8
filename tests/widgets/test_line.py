"""Pieces of text: broken between words, cleaned, and never wider than asked."""

import pytest
from rich.cells import cell_len

from loba_tui.widgets.line import wrapped


def texts(rows: list[list[tuple[str, str]]]) -> list[str]:
    return ["".join(text for text, _ in row) for row in rows]


def test_rows_are_broken_between_words_and_keep_their_tones() -> None:
    rows = wrapped([["one two ", ("three four", "bad")], [""], ["short"]], 10)
    assert [text.rstrip() for text in texts(rows)] == ["one two", "three four", "", "short"]
    assert [tone for _, tone in rows[1]] == ["bad", "bad"]


@pytest.mark.parametrize("width", [1, 2, 7, 40])
def test_no_row_is_wider_than_asked(width: int) -> None:
    given = [["x" * 99, (" and words " * 9, "dim"), "\x1b[2Jend"]]
    rows = texts(wrapped(given, width))
    assert all(cell_len(row) <= width for row in rows)
    assert "".join("".join(rows).split()) == "x" * 99 + "andwords" * 9 + "end"
