from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loba_tui.core.text import clean, counted, did_you_mean, nearest, quote


@pytest.mark.parametrize(
    ("hostile", "plain"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;new title\x07name", "name"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "red"),
        ("\x9d0;title\x9cname", "name"),
        ("\x1bPq sixel \x1b\\after", "after"),
        ("\x1b]never ended", "never ended"),
        ("a\u202egpj.exe", "agpj.exe"),
        ("a\u2066b\u2069", "ab"),
        ("tab\tand\nline\r", "tab and line "),
        ("bell\x07null\x00", "bellnull"),
        ("\ud800half", "half"),
        ("tag\U000e0041", "tag"),
        ("no\u00a0break\u2028\U0010ffff", "no break \ufffd"),
        ("soft\u00adhyphen\ufeff", "softhyphen"),
        ("\x9d0;one\x9dtwo", "0;onetwo"),
        ("a\x85b\x1cc\u061cd", "a bcd"),
        ("blank\u3164\u2800\u115f.", "blank   ."),
        ("\u0301\u200dstart", "start"),
        ("Z" + "\u0334" * 500 + "algo", "Z" + "\u0334" * 4 + "algo"),
        ("Việt ក្ដី שָׁ ❤\ufe0f 葛\U000e0100", "Việt ក្ដី שָׁ ❤\ufe0f 葛\U000e0100"),
        ("naïve 日本 👩\u200d🚀", "naïve 日本 👩\u200d🚀"),
    ],
)
def test_clean_leaves_only_what_stands_where_it_is(hostile: str, plain: str) -> None:
    assert clean(hostile) == plain


@pytest.mark.parametrize("unit", ["\x9d", "\x9b", "\x1b]", "\x1b[", "\x1bP0", "\x9b0", "\u0334"])
def test_clean_takes_no_longer_for_hostile_text(unit: str) -> None:
    began = time.perf_counter()
    clean(unit * 200_000)
    assert time.perf_counter() - began < 2


def test_clean_keeps_line_breaks_only_when_asked() -> None:
    assert clean("a\nb\u2028c", keep_newlines=True) == "a\nb c"


def test_clean_cuts_to_the_limit() -> None:
    assert clean("abcdef", limit=4) == "abc…"
    assert clean("abcd", limit=4) == "abcd"


@given(st.text(alphabet=st.characters() | st.sampled_from("\x1b\x9b[];mP\\\x07\u202e")))
def test_cleaned_text_holds_nothing_that_acts_on_a_terminal(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.translate(dict.fromkeys(map(ord, "\u200c\u200d"))).isprintable()
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "nothing"),
        (True, "true"),
        ("a\x1b[1mb", "'ab'"),
        (2e-4, "0.0002"),
        ([], "an empty list"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "a section"),
    ],
)
def test_values_are_quoted_as_their_author_knows_them(value: object, shown: str) -> None:
    assert quote(value) == shown


@pytest.mark.parametrize(
    ("word", "meant"),
    [("adamww", "adamw"), ("K-LMS", "k_lms"), ("ADAMW", "adamw"), ("zzz", None), ("", None)],
)
def test_nearest_sees_through_slips_of_case_and_separators(word: str, meant: str | None) -> None:
    assert nearest(word, ["adamw", "k_lms", "sgd"]) == meant


def test_a_hint_offers_the_nearest_name_or_says_something_else() -> None:
    assert did_you_mean("adamv", ["adamw", "sgd"], "There is adamw, sgd.") == "Did you mean adamw?"
    assert did_you_mean("zzz", ["adamw", "sgd"], "There is adamw, sgd.") == "There is adamw, sgd."
    assert did_you_mean("evil", ["evil\x1b[2J"]) == "Did you mean evil?"


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0 layers"), (1, "1 layer"), (6, "6 layers"), ("?", "? layers")]
)
def test_a_number_has_its_noun_in_the_plural_unless_it_is_one(number: object, shown: str) -> None:
    assert counted(number, "layer") == shown
