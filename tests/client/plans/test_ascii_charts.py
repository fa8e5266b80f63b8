"""Charts of plain text: heights, widths, and what is left where there are no block characters."""

from __future__ import annotations

import io
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loba_tui.client.plans.ascii_charts import Canvas
from loba_tui.client.plans.text import plan_lines

BLOCKS, ASCII = Canvas(40, True), Canvas(40, False)


def test_columns_are_as_high_as_their_values() -> None:
    lines = Canvas(17, True).columns([0.0, 0.5, 1.0, None], ends=("a", "z"), height=2)
    assert lines == [
        "         1 │  █",
        "         0 │ ██",
        "           └────",
        "            a  z",
    ]


def test_a_narrow_chart_keeps_every_peak() -> None:
    values: list[float | None] = [0.0] * 1000
    values[637] = 1.0
    lines = BLOCKS.columns(values, ends=("", ""))
    assert lines[0].count("█") == 1


def test_a_logarithmic_chart_of_powers_is_a_straight_line() -> None:
    values = [10.0**-n for n in range(27)]
    lines = ASCII.columns(values, ends=("", ""), height=9, is_log=True)
    filled = [line.count("#") for line in lines[:9]]
    assert filled == sorted(filled)
    assert all(abs(b - a - 3) <= 1 for a, b in itertools.pairwise(filled))


numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(numbers, max_size=300),
    st.integers(20, 100),
    st.booleans(),
    st.booleans(),
    st.integers(1, 8),
)
def test_any_values_fit_the_canvas(
    values: list[float | None], width: int, is_unicode: bool, is_log: bool, height: int
) -> None:
    canvas = Canvas(width, is_unicode)
    lines = canvas.columns(values, ends=("a", "b"), height=height, is_log=is_log)
    assert all(len(line) <= width and line.isprintable() for line in lines)
    if not is_unicode:
        assert all(line.isascii() for line in lines)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", True), ("ascii", False), ("latin-1", False), ("no-such-encoding", False)],
)
def test_the_encoding_says_which_characters_there_are(encoding: str, expected: bool) -> None:
    class Stream(io.StringIO):
        pass

    Stream.encoding = encoding  # type: ignore[assignment,misc]
    assert Canvas.of(Stream()) == Canvas(80, expected)


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.01, 0.5, 1.0, 2.0, math.pi])
def test_a_bar_has_its_width(share: float) -> None:
    assert len(BLOCKS.bar(share, 11)) == len(ASCII.bar(share, 11)) == 11


def test_foreign_text_and_unknown_sections_do_no_harm() -> None:
    levels = {"scheduler": "\x1b[31mname", "num_steps": 1, "timestep": [None], "sigma": [None]}
    sections = {
        "learning_rate": {"scheduler": "é" * 200, "num_steps": 1, "lr": [None]},
        "noise": {"training": levels, "sampling": levels},
        "of_tomorrow": {"anything": 1},
    }
    for canvas in (BLOCKS, ASCII):
        text = "\n".join(plan_lines(sections, canvas))
        assert "\x1b" not in text
        assert "of_tomorrow" not in text
        assert max(map(len, text.splitlines())) <= 40
    assert text.isascii()


def test_blocks_of_transformers_are_told_apart():
    block = {"least": 1.0, "mean": 1.0, "most": 1.0, "num_modules": 2}
    names = [f"single_transformer_blocks.{number}" for number in (9, 37)]
    layers = {
        "scheduler": "uniform",
        "adapter": "lora",
        "trained_parameters": 1,
        "denoiser_parameters": 2,
        "model": "shipped",
        "blocks": [{**block, "name": name} for name in names],
    }
    text = "\n".join(plan_lines({"layers": layers}, Canvas(80, True)))
    assert all(f"  {name} " in text for name in names)
