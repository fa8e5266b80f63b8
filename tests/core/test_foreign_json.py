from __future__ import annotations

import json

import pytest

from loba_tui.core.foreign_json import MAX_DEPTH, parse_json, parse_object


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"\xff\xfe{\x00}\x00",
        "{",
        "9" * 5000,
        nested(MAX_DEPTH + 2),
        nested(100_000),
        '{"a":' * 1000 + "1" + "}" * 1000,
        '{"a": [' + "[]," * 100 + nested(MAX_DEPTH + 1) + "]}",
    ],
    ids=lambda content: str(content[:20]),
)
def test_whatever_is_wrong_is_a_value_error(content: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its text is Python's own for most of them
        parse_json(content)


def test_what_is_sound_is_read() -> None:
    wide = {"rows": [{"a": [1, 2.5, None]} for _ in range(500)]}
    assert parse_json(json.dumps(wide)) == wide
    assert parse_json(nested(MAX_DEPTH)) is not None
    assert parse_object('{"a": 1, "a": 2}') == {"a": 2}


def test_a_key_that_is_there_twice_is_a_mistake_where_asked() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse_json('{"a": 1, "a": 2}', unique_keys=True)


def test_an_object_is_a_table() -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        parse_object("[]")
